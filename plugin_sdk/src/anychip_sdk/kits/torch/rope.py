"""Norm and rotary embedding, which ops and attention share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Over the last axis, in float32 inside (arXiv:1910.07467). weight: float32."""
    if x.dtype == torch.float32:
        return F.rms_norm(x, weight.shape, weight, eps)
    return F.rms_norm(x.float(), weight.shape, weight, eps).to(x.dtype)


def angles_of(positions: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """positions: [T], inverse: [D / 2] -> cos and sin, each [T, 1, D / 2] float32."""
    angles = positions.to(torch.float32)[:, None, None] * inverse
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE (arXiv:2104.09864), x[i] turned with x[i + D / 2]. x: [T, H, D]."""
    cos, sin = angles
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    if x.dtype != torch.float32:
        a, b = a.float(), b.float()
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    torch.mul(a, cos, out=out[..., :half]).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., half:]).addcmul_(a, sin)
    return out.to(x.dtype)
