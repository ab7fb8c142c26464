"""Layers that repeat are one loop: a program as short as its period compiles as fast as one period."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anychip_sdk.contract import Layer
from anychip_sdk.kits.jax.ranks import stacked

Block = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class Run:
    """`count` repetitions of `period` layers, from layer `first` on."""

    first: int
    period: int
    count: int


@partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["runs"])
@dataclass(frozen=True)
class Stacked:
    """Weights of all layers. `weights`: for each run, one tree for each layer of its period; where a run repeats, every
    leaf is [count, ...]."""

    runs: tuple[Run, ...]
    weights: tuple[tuple[Any, ...], ...]


def stack(specs: Sequence[Layer], weights: list[Any]) -> Stacked:
    """weights: a tree of handles for each layer. They are given up: each is freed as soon as its stack is made, so
    that no more than one stack is there twice."""
    runs = find_runs([_kind(s, w) for s, w in zip(specs, weights, strict=True)], [s.kv_index for s in specs])
    return Stacked(runs, tuple(_stack_run(run, weights) for run in runs))


def _kind(spec: Layer, weights: Any) -> tuple[Any, ...]:
    """What must agree for two layers to share a program."""
    leaves, structure = jax.tree.flatten(weights)
    return replace(spec, kv_index=0), structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def find_runs(kinds: Sequence[Any], kv_index: Sequence[int]) -> tuple[Run, ...]:
    """From each layer on, the period that covers the most layers, the shortest of these. A period repeats where kinds
    are equal and each of its layers moves on in the KV cache by a step of its own."""
    runs: list[Run] = []
    first = 0
    while first < len(kinds):
        periods = range(1, (len(kinds) - first) // 2 + 1)
        found = [Run(first, p, _repeats(kinds, kv_index, first, p)) for p in periods]
        best = max((r for r in found if r.count > 1), key=lambda r: (r.count * r.period, -r.period), default=None)
        runs.append(best or Run(first, 1, 1))
        first += runs[-1].period * runs[-1].count
    return tuple(runs)


def _repeats(kinds: Sequence[Any], kv_index: Sequence[int], first: int, period: int) -> int:
    place = first + period
    while place < len(kinds):
        again = place - period
        step = kv_index[first + (again - first) % period + period] - kv_index[first + (again - first) % period]
        if kinds[place] != kinds[again] or kv_index[place] - kv_index[again] != step:
            break
        place += 1
    return (place - first) // period


def _stack_run(run: Run, weights: list[Any]) -> tuple[Any, ...]:
    if run.count == 1:
        return tuple(weights[run.first : run.first + run.period])
    return tuple(
        jax.tree.map(_join, *weights[run.first + j : run.first + run.period * run.count : run.period])
        for j in range(run.period)
    )


def _join(*parts: Any) -> Any:
    """Descriptions of arrays give one of their stack."""
    sharding = stacked(parts[0].sharding)
    if isinstance(parts[0], jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(parts), *parts[0].shape), parts[0].dtype, sharding=sharding)
    joined = jax.block_until_ready(jax.jit(jnp.stack, out_shardings=sharding)(parts))
    for part in parts:
        part.delete()
    return joined


def run(block: Block, specs: Sequence[Layer], stacked: Stacked, carry: tuple[Any, ...]) -> tuple[Any, ...]:
    """carry = block(layer, w, *carry) for every layer."""
    for part, trees in zip(stacked.runs, stacked.weights, strict=True):
        members = specs[part.first : part.first + part.period]
        if part.count == 1:
            for layer, w in zip(members, trees, strict=True):
                carry = block(layer, w, *carry)
        else:
            carry = _scan(block, members, specs[part.first + part.period :], part.count, trees, carry)
    return carry


def _scan(
    block: Block, members: Sequence[Layer], following: Sequence[Layer], count: int, trees: Any, carry: tuple[Any, ...]
) -> tuple[Any, ...]:
    """members: the layers of the first period; following: from the second period on."""
    steps = [b.kv_index - a.kv_index for a, b in zip(members, following, strict=False)]

    def period(carry: tuple[Any, ...], x: tuple[Any, Any]) -> tuple[tuple[Any, ...], None]:
        place, trees = x
        for layer, step, w in zip(members, steps, trees, strict=True):
            carry = block(replace(layer, kv_index=layer.kv_index + place * step), w, *carry)
        return carry, None

    carry, _ = lax.scan(period, carry, (jnp.arange(count), trees))
    return carry
