"""Mixture of experts: tokens sorted by expert, one ragged product for all experts (MegaBlocks, arXiv:2211.15841)."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from anychip_sdk.contract import MoESpec
from anychip_sdk.kits.jax.math import activate, matmul, precision
from anychip_sdk.kits.jax.ranks import AXIS, Ranks
from anychip_sdk.kits.jax.weights import Weight

# x: [N, I] sorted by expert, w: [X, O, I]: the groups are runs of rows of x.
_BY_EXPERT = lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (2,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
)


def experts(
    x: Array, real: Array, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, *, dense: bool = False
) -> Array:
    """x: [T, E]; real: number of rows that are tokens -> [T, E]. Ties go to the lower expert. Padding comes out as 0.
    dense: every expert takes every row, which costs nothing where reading the weights takes longer."""
    T = x.shape[0]
    token = jnp.arange(T) < real  # [T]
    x = jnp.where(token[:, None], x, 0)  # padding may hold NaN, and 0 * NaN is NaN
    weights, chosen = lax.top_k(jax.nn.softmax(matmul(x, router.array), axis=-1), spec.top_k)  # [T, k] each
    if spec.renormalize:
        weights = weights / weights.sum(-1, keepdims=True)
    back = _all_rows(x, chosen, gate_up, down, spec) if dense else _own_rows(x, token, chosen, gate_up, down, spec)
    summed = jnp.sum(back.astype(jnp.float32) * weights[..., None], axis=1)
    return jnp.where(token[:, None], summed, 0).astype(x.dtype)


def _own_rows(x: Array, token: Array, chosen: Array, gate_up: Weight, down: Weight, spec: MoESpec) -> Array:
    """chosen: [T, k] -> [T, k, E]: what each chosen expert makes of the token. Padding is given to an expert beyond the
    last, so it takes nobody's time."""
    flat = jnp.where(token[:, None], chosen, spec.experts).reshape(-1)  # [T * k]
    order = jnp.argsort(flat, stable=True)
    sizes = jnp.bincount(flat, length=spec.experts + 1)[: spec.experts].astype(jnp.int32)
    hidden = _products(x[order // spec.top_k], gate_up.array, sizes)  # [T * k, 2 * I]
    gate, up = jnp.split(hidden, [gate_up.sizes[0]], axis=-1)
    out = _products(activate(gate, up, spec.activation), down.array, sizes)  # [T * k, E]
    return out[jnp.argsort(order)].reshape(*chosen.shape, -1)


def _all_rows(x: Array, chosen: Array, gate_up: Weight, down: Weight, spec: MoESpec) -> Array:
    """As `_own_rows`, after every expert has taken every row."""
    product = partial(jnp.einsum, precision=precision(x), preferred_element_type=jnp.float32)
    hidden = product("te,xoe->xto", x, gate_up.array).astype(x.dtype)  # [X, T, 2 * I]
    gate, up = jnp.split(hidden, [gate_up.sizes[0]], axis=-1)
    out = product("xti,xei->xte", activate(gate, up, spec.activation), down.array).astype(x.dtype)  # [X, T, E]
    return out[chosen, jnp.arange(len(x))[:, None]]


def experts_of_ranks(
    ranks: Ranks,
    x: Array,
    real: Array,
    router: Weight,
    gate_up: Weight,
    down: Weight,
    spec: MoESpec,
    *,
    dense: bool = False,
) -> Array:
    """`experts`, where each rank has a part of every expert; what they have is added up in x's dtype."""
    sizes = tuple(size // ranks.size for size in gate_up.sizes)

    def part(x: Array, real: Array, router: Array, gate_up: Array, down: Array) -> Array:
        mine = experts(x, real, Weight(router), Weight(gate_up, sizes=sizes), Weight(down), spec, dense=dense)
        return lax.psum(mine, AXIS)

    whole, outer, inner = PartitionSpec(), PartitionSpec(None, AXIS), PartitionSpec(None, None, AXIS)
    run = jax.shard_map(part, mesh=ranks.mesh, in_specs=(whole, whole, whole, outer, inner), out_specs=whole)
    return run(x, real, router.array, gate_up.array, down.array)


def _products(x: Array, w: Array, sizes: Array) -> Array:
    """Row i of x times the weight of its group."""
    y = lax.ragged_dot_general(x, w, sizes, _BY_EXPERT, precision=precision(x), preferred_element_type=jnp.float32)
    return y.astype(x.dtype)
