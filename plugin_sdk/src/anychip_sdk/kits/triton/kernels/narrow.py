"""Numbers of 8 bits in the KV cache: whole ones (int8), and floats with 4 bits of exponent and 3 of mantissa (OCP's
E4M3, arXiv:2209.05433), kept as bytes. Both are made and read with plain arithmetic, so that every card has them,
with or without instructions for them, and in one format."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from anychip_sdk.kits.torch.scaled import Pages, ScaledPages


def numbers_of(pages: Pages) -> tuple[Tensor, Tensor | None]:
    """-> what kernels read, floats of 8 bits as bytes, and the scales, None where the pages have none."""
    if not isinstance(pages, ScaledPages):
        return pages, None
    numbers, scales = pages
    return (numbers.view(torch.uint8) if numbers.is_floating_point() else numbers), scales


@triton.jit
def vector_scale(magnitudes: tl.tensor, TYPE: tl.constexpr) -> Any:
    """[N, D] -> [N]: the largest one over the largest number of int8 or, where bytes stand for floats, of E4M3. NaN
    where one is not finite, since then the whole vector reads as NaN."""
    largest: tl.constexpr = 127.0 if tl.int8 == TYPE else 448.0
    finite = tl.min((magnitudes < float("inf")).to(tl.int32), axis=1)
    scale = tl.div_rn(tl.max(magnitudes, axis=1), tl.full([magnitudes.shape[0]], largest, tl.float32))
    return tl.where(finite == 1, scale, float("nan"))


@triton.jit
def narrow(x: tl.tensor, scale: tl.tensor, TYPE: tl.constexpr) -> Any:
    """x: [N, D] float32, scale: [N] -> x / scale, rounded to nearest and to even on ties."""
    largest: tl.constexpr = 127.0 if tl.int8 == TYPE else 448.0
    scale = tl.where(scale == 0.0, 1.0, scale)
    y = tl.div_rn(x, tl.broadcast_to(scale[:, None], x.shape))
    y = tl.minimum(tl.maximum(y, -largest), largest)
    if tl.int8 == TYPE:
        made = ((y + 12582912.0) - 12582912.0).to(tl.int8)  # 1.5 * 2**23: sums with it have no fraction
    else:
        # With the exponent's bias moved from 127 to 7, the upper bits are those of E4M3, subnormal numbers included.
        bits = (tl.abs(y) * 7.52316384526264e-37).to(tl.uint32, bitcast=True)  # 2**-120
        rounded = (bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20
        made = (rounded | tl.where(y < 0, 0x80, 0)).to(tl.uint8)
    return made


@triton.jit
def widen(x: tl.tensor, TYPE: tl.constexpr) -> Any:
    """Values as the cache has them -> in TYPE; E4M3 divided by 256, see `widened`."""
    if x.dtype == tl.uint8:
        bits = x.to(tl.uint16)
        half = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)  # E4M3 is float16 with the exponent's bias off by 8
        y = half.to(tl.float16, bitcast=True)
    elif x.dtype == tl.int8:
        y = x.to(tl.float16)  # on its way to TYPE, which takes fewer registers on RDNA
    else:
        y = x
    return y.to(TYPE)


@triton.jit
def widened(scale: tl.tensor, TYPE: tl.constexpr) -> Any:
    """Scales for what `widen` gives. TYPE: of the cache."""
    return scale * 256.0 if tl.uint8 == TYPE else scale
