"""RMSNorm (arXiv:1910.07467), alone or after the residual sum."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from anychip_sdk.kits.triton.kernels.common import inverse_rms
from anychip_sdk.kits.triton.launch import Launcher


@triton.jit
def rms_norm_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    weight: tl.tensor,
    y: tl.tensor,
    total: tl.tensor,
    x_stride: int,
    residual_stride: int,
    size: int,
    eps: float,
    BLOCK: tl.constexpr,
) -> None:
    """One row. residual and total: None, or what is added first and where the sum goes. weight: float32."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    live = i < size
    value = tl.load(x + row * x_stride + i, mask=live, other=0.0)
    if residual is not None:
        value = value.to(tl.float32) + tl.load(residual + row * residual_stride + i, mask=live, other=0.0)
        value = value.to(total.dtype.element_ty)
        tl.store(total + row * size + i, value, mask=live)
    wide = value.to(tl.float32)
    scale = inverse_rms(tl.sum(wide * wide, axis=0), size, eps)
    w = tl.load(weight + i, mask=live, other=0.0)
    tl.store(y + row * size + i, (wide * scale * w).to(y.dtype.element_ty), mask=live)


def rms_norm(
    launch: Launcher, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor | None]:
    """x, residual: [..., N], weight: [N] float32 -> the norm of x, or of x + residual, and that sum."""
    rows = _rows(x)
    other = None if residual is None else _rows(residual)
    y = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    total = None if other is None else torch.empty_like(y)
    count, size = rows.shape
    block = triton.next_power_of_2(size)
    strides = rows.stride(0), rows.stride(0) if other is None else other.stride(0)
    warps = max(1, min(16, block // 512))
    launch(rms_norm_kernel, (count,), rows, other, weight, y, total, *strides, size, eps, BLOCK=block, warps=warps)
    return y.view(x.shape), None if total is None else total.view(x.shape)


def _rows(x: Tensor) -> Tensor:
    """[..., N] -> [rows, N] with its last axis in one run."""
    return x if x.ndim == 2 and x.stride(1) == 1 else x.reshape(-1, x.shape[-1]).contiguous()
