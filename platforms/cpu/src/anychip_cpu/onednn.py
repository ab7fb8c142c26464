"""Products with weights that oneDNN has laid out once for its own kernels.

torch's `linear` reads a plain weight and, in float32, stays far from the GEMM peak for the few rows of a decode batch.
torch keeps the packed product for its compiler (`torch.ops.mkldnn`), so whether it is there is asked, not assumed."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

TYPICAL_ROWS = 32
"""Rows of x that the layout is chosen for. It is right for any number."""

LEAST_ROWS = 4
"""Fewer rows are slower than this many, which read the weight at the memory's speed."""


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor have packed products in `dtype`."""
    ops = torch.ops.mkldnn
    needed = ("_linear_pointwise", "_reorder_linear_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(ops, name) for name in needed):
        return False
    asked = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    if dtype in asked:
        return hasattr(ops, asked[dtype]) and bool(getattr(ops, asked[dtype])())
    return dtype == torch.float32


def packed(weight: Tensor) -> Tensor:
    """weight: [O, I] -> the same, opaque: its shape and dtype can be read, its values cannot."""
    result: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
    return result


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x: [T, I], weight: packed [O, I] -> [T, O]."""
    rows = x.shape[0]
    if rows < LEAST_ROWS:
        x = pad(x, (0, 0, 0, LEAST_ROWS - rows))
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y if rows >= LEAST_ROWS else y[:rows]
