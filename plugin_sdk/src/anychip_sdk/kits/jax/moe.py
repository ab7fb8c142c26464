"""Mixture of experts: tokens sorted by expert, one ragged product for all experts (MegaBlocks, arXiv:2211.15841)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from anychip_sdk.contract import MoESpec
from anychip_sdk.kits.jax.math import activate, matmul, precision
from anychip_sdk.kits.jax.weights import Weight

# x: [N, I] sorted by expert, w: [X, O, I]: the groups are runs of rows of x.
_BY_EXPERT = lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (2,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
)


def experts(x: Array, real: Array, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec) -> Array:
    """x: [T, E]; real: number of rows that are tokens -> [T, E]. Ties go to the lower expert. Padding is given to an
    expert beyond the last, so it takes nobody's time, and comes out as zero."""
    T = x.shape[0]
    token = jnp.arange(T) < real  # [T]
    x = jnp.where(token[:, None], x, 0)  # padding may hold NaN, and 0 * NaN is NaN
    weights, chosen = lax.top_k(jax.nn.softmax(matmul(x, router.array), axis=-1), spec.top_k)  # [T, k] each
    if spec.renormalize:
        weights = weights / weights.sum(-1, keepdims=True)
    flat = jnp.where(token[:, None], chosen, spec.experts).reshape(-1)  # [T * k]
    order = jnp.argsort(flat, stable=True)
    sizes = jnp.bincount(flat, length=spec.experts + 1)[: spec.experts].astype(jnp.int32)
    hidden = _products(x[order // spec.top_k], gate_up.array, sizes)  # [T * k, 2 * I]
    gate, up = jnp.split(hidden, [gate_up.sizes[0]], axis=-1)
    out = _products(activate(gate, up, spec.activation), down.array, sizes)  # [T * k, E]
    back = out[jnp.argsort(order)].reshape(T, spec.top_k, -1).astype(jnp.float32)
    summed = jnp.sum(back * weights[..., None], axis=1)
    return jnp.where(token[:, None], summed, 0).astype(x.dtype)


def _products(x: Array, w: Array, sizes: Array) -> Array:
    """Row i of x times the weight of its group."""
    y = lax.ragged_dot_general(x, w, sizes, _BY_EXPERT, precision=precision(x), preferred_element_type=jnp.float32)
    return y.astype(x.dtype)
