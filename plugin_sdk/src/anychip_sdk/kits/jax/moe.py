"""Mixture of experts: tokens sorted by expert, one ragged product for all experts (MegaBlocks, arXiv:2211.15841)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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


@dataclass(frozen=True)
class Grouped:
    """How rows that are sorted by expert are multiplied with the weights of their experts."""

    product: Callable[[Array, Weight, Array], Array]
    """x [N, I], weight, sizes [X] -> [N, O], x's dtype; sizes[i] rows are expert i's, and what rows beyond all of them
    give is not looked at"""
    rows: int = 1
    """Each expert's rows begin at a multiple of this; `sizes` and N are multiples of it"""


def _ragged(x: Array, w: Weight, sizes: Array) -> Array:
    y = lax.ragged_dot_general(x, w.own, sizes, _BY_EXPERT, precision=precision(x), preferred_element_type=jnp.float32)
    return y.astype(x.dtype)


RAGGED = Grouped(_ragged)


def experts(
    x: Array, real: Array, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, how: Grouped | None = RAGGED
) -> Array:
    """x: [T, E]; real: number of rows that are tokens -> [T, E]. Ties go to the lower expert. Padding comes out as 0.
    how: None where every expert takes every row, which costs nothing where reading the weights takes longer."""
    T = x.shape[0]
    token = jnp.arange(T) < real  # [T]
    x = jnp.where(token[:, None], x, 0)  # padding may hold NaN, and 0 * NaN is NaN
    weights, chosen = lax.top_k(jax.nn.softmax(matmul(x, router.array), axis=-1), spec.top_k)  # [T, k] each
    if spec.renormalize:
        weights = weights / weights.sum(-1, keepdims=True)
    if how is None:
        back = _all_rows(x, chosen, gate_up, down, spec)
    else:
        back = _own_rows(x, token, chosen, gate_up, down, spec, how)
    summed = jnp.sum(back.astype(jnp.float32) * weights[..., None], axis=1)
    return jnp.where(token[:, None], summed, 0).astype(x.dtype)


def _own_rows(
    x: Array, token: Array, chosen: Array, gate_up: Weight, down: Weight, spec: MoESpec, how: Grouped
) -> Array:
    """chosen: [T, k] -> [T, k, E]: what each chosen expert makes of the token. Padding is given to an expert beyond the
    last, so it takes nobody's time."""
    flat = jnp.where(token[:, None], chosen, spec.experts).reshape(-1)  # [T * k] picks
    order = jnp.argsort(flat, stable=True)
    counts = jnp.bincount(flat, length=spec.experts + 1).astype(jnp.int32)
    sizes = (-(-counts // how.rows) * how.rows)[: spec.experts]  # rows of each expert, those that fill up included
    start, first = jnp.cumsum(sizes) - sizes, jnp.cumsum(counts) - counts
    N = (len(flat) + spec.experts * (how.rows - 1)) // how.rows * how.rows  # as many as `sizes` can add up to
    expert = flat[order]
    row = start.at[expert].get(mode="clip") + jnp.arange(len(flat)) - first[expert]
    row = jnp.where(expert < spec.experts, row, N)  # of each pick in order
    rows = x[jnp.zeros(N, jnp.int32).at[row].set(order // spec.top_k, mode="drop")]  # [N, I]
    hidden = how.product(rows, gate_up, sizes)  # [N, 2 * I]
    gate, up = jnp.split(hidden, [gate_up.sizes[0]], axis=-1)
    out = how.product(activate(gate, up, spec.activation), down, sizes)  # [N, E]
    mine = jnp.zeros_like(row).at[order].set(row)
    return out.at[mine].get(mode="clip").reshape(*chosen.shape, -1)


def _all_rows(x: Array, chosen: Array, gate_up: Weight, down: Weight, spec: MoESpec) -> Array:
    """As `_own_rows`, after every expert has taken every row."""
    product = partial(jnp.einsum, precision=precision(x), preferred_element_type=jnp.float32)
    hidden = product("te,xoe->xto", x, gate_up.own).astype(x.dtype)  # [X, T, 2 * I]
    gate, up = jnp.split(hidden, [gate_up.sizes[0]], axis=-1)
    out = product("xti,xei->xte", activate(gate, up, spec.activation), down.own).astype(x.dtype)  # [X, T, E]
    return out[chosen, jnp.arange(len(x))[:, None]]


def experts_of_ranks(
    ranks: Ranks,
    x: Array,
    real: Array,
    router: Weight,
    gate_up: Weight,
    down: Weight,
    spec: MoESpec,
    how: Grouped | None = RAGGED,
) -> Array:
    """`experts`, where each rank has a part of every expert; what they have is added up in x's dtype."""
    sizes = tuple(size // ranks.size for size in gate_up.sizes)

    def part(x: Array, real: Array, router: Array, gate_up: Weight, down: Weight) -> Array:
        mine = experts(x, real, Weight(router), replace(gate_up, sizes=sizes), down, spec, how)
        return lax.psum(mine, AXIS)

    whole, split = PartitionSpec(), (_parts(gate_up, 2), _parts(down, 1))
    run = jax.shard_map(part, mesh=ranks.mesh, in_specs=(whole, whole, whole, *split), out_specs=whole, check_vma=False)
    return run(x, real, router.array, gate_up, down)


def _parts(w: Weight, axis: int) -> Any:
    """Split along an axis, counted from the last one, which is 1."""
    before: list[None] = [None] * (w.array.ndim - axis)
    array: Any = PartitionSpec(*before, AXIS)
    place: Any = None if w.place is None else PartitionSpec()
    return replace(w, array=array, place=place)
