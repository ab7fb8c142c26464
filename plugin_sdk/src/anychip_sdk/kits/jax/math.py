"""The formulas that ops and attention share. Everything is computed in float32 and rounded once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from anychip_sdk.contract import Activation

Angles = tuple[Array, Array]


def precision(x: Array) -> lax.Precision:
    """float32 products are computed in float32, which a TPU does not do unless told."""
    return lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT


def matmul(x: Array, w: Array) -> Array:
    """x: [T, I], w: [O, I] -> [T, O] float32, summed in float32."""
    sides = (((1,), (1,)), ((), ()))
    return lax.dot_general(x, w, sides, precision=precision(x), preferred_element_type=jnp.float32)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Over the last axis (arXiv:1910.07467). weight: float32."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide * wide, axis=-1, keepdims=True)
    return (wide * lax.rsqrt(mean + eps) * weight).astype(x.dtype)


def angles_of(positions: Array, inverse: Array) -> Angles:
    """positions: [T], inverse: [D / 2] -> cos and sin, each [T, 1, D / 2] float32."""
    angles = positions.astype(jnp.float32)[:, None, None] * inverse
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, angles: Angles) -> Array:
    """RoPE (arXiv:2104.09864): the pair (x[i], x[i + D / 2]) turns by angle i. x: [T, H, D]."""
    cos, sin = angles
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def activate(gate: Array, up: Array, kind: Activation) -> Array:
    """activation(gate) * up"""
    wide = gate.astype(jnp.float32)
    y = jax.nn.silu(wide) if kind == "silu" else jax.nn.gelu(wide, approximate=True)
    return (y * up.astype(jnp.float32)).astype(gate.dtype)
