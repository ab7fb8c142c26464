"""The formulas that ops, attention and sampling share. Results have the dtype of x."""

from __future__ import annotations

import math

import numpy as np

from anychip_sdk.kits.numpy.weights import Weight


def rms_norm(x: np.ndarray, w: Weight, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * w over the last axis (arXiv:1910.07467)."""
    root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    y: np.ndarray = x / root * w.only("norm")
    return y.astype(x.dtype)


def rotate(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """RoPE (arXiv:2104.09864). x: [T, H, D]; angles: [T, D / 2]; the pair (x[i], x[i + D / 2]) turns by angles[i]."""
    half = x.shape[-1] // 2
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]  # [T, 1, D / 2]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x)."""
    with np.errstate(over="ignore"):  # exp(-x) may be infinite: x / inf is the right 0
        y: np.ndarray = x / (1 + np.exp(-x))
    return y


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """The tanh form of GELU (arXiv:1606.08415)."""
    y: np.ndarray = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return y


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis. -inf stays -inf."""
    shifted = x - x.max(axis=-1, keepdims=True)
    y: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return y
