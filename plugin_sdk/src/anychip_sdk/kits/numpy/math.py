"""The formulas that ops and attention share, and what a weight handle is here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Weight:
    """linear: `array` [O, I], parts along O; experts: [E, O, I]; embedding: [V, E]; norm, vector, rope: [N]."""

    array: np.ndarray
    sizes: tuple[int, ...] = ()
    """rows of each part"""
    bias: np.ndarray | None = None


def rms_norm(x: np.ndarray, w: Weight, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * w over the last axis (arXiv:1910.07467)."""
    scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    return (x / scale * w.array).astype(x.dtype)


def rotate(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """RoPE (arXiv:2104.09864). x: [T, H, D]; angles: [T, D / 2]; x[i] turns with x[i + D / 2]."""
    half = x.shape[-1] // 2
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def silu(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # exp(-x) may be infinite: x / inf is the right 0
        return x / (1 + np.exp(-x))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """The tanh form of GELU (arXiv:1606.08415)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
