"""Norm and rotary embedding, which ops and attention share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Over the last axis, in float32 inside (arXiv:1910.07467). weight: float32."""
    if x.dtype == torch.float32:
        return functional.rms_norm(x, weight.shape, weight, eps)
    return functional.rms_norm(x.float(), weight.shape, weight, eps).to(x.dtype)


def angles_of(positions: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """positions: [T], inverse: [D / 2] -> cos, and sin with its first half negated, each [T, 1, D] float32."""
    angles = positions.to(torch.float32)[:, None, None] * inverse
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE (arXiv:2104.09864), x[i] turned with x[i + D / 2], in float32. x: [T, H, D]."""
    cos, sin = angles
    wide = x.float()
    return torch.addcmul(wide * cos, wide.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)
