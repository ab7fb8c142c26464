"""Layers that repeat are one loop: a program as short as its period compiles as fast as one period."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from anychip_sdk.contract import Layer
from anychip_sdk.kits.jax.ranks import stacked
from anychip_sdk.kits.jax.weights import Weight

Block = Callable[..., tuple[Any, ...]]
EXPERT_STACK = 4
"""Axes of a stack of layers' experts, [layers, X, O, I]; no other weight has as many."""


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


Tree = Mapping[str, Any]
Pack = Callable[[Any], Any]
"""A weight's description -> its handle."""


def pack(specs: Sequence[Layer], trees: Sequence[Tree], pack: Pack, describe: Pack) -> Stacked:
    """trees: a WeightSpec for each weight of each layer. `describe` gives what `pack` makes, in shapes alone. Each
    layer's weight is put into its place as soon as it is there, so no more than one of them is there twice."""
    described = [{name: describe(spec) for name, spec in tree.items()} for tree in trees]
    kinds = [_kind(layer, weights) for layer, weights in zip(specs, described, strict=True)]
    runs = find_runs(kinds, [layer.kv_index for layer in specs])
    return Stacked(runs, tuple(_pack_run(run, trees, described, pack) for run in runs))


def _kind(spec: Layer, weights: Any) -> tuple[Any, ...]:
    """What must agree for two layers to share a program."""
    leaves, structure = jax.tree.flatten(weights)
    return replace(spec, kv_index=0, final=False), structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


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


def _pack_run(run: Run, trees: Sequence[Tree], described: Sequence[Tree], pack: Pack) -> tuple[Any, ...]:
    firsts = range(run.first, run.first + run.period)
    if run.count == 1:
        return tuple({name: pack(spec) for name, spec in trees[i].items()} for i in firsts)
    return tuple(
        {
            name: _stacked([trees[i + run.period * k][name] for k in range(run.count)], described[i][name], pack)
            for name in trees[i]
        }
        for i in firsts
    )


def _stacked(specs: Sequence[Any], described: Any, pack: Pack) -> Any:
    """One weight of several layers, as one handle."""
    room, part = jax.tree.map(partial(_room, len(specs)), described), pack(specs[0])
    if isinstance(jax.tree.leaves(part)[0], jax.ShapeDtypeStruct):
        return room  # of a device that is not here
    whole = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype, device=a.sharding), room)
    for place, spec in enumerate(specs):
        part = part if place == 0 else pack(spec)
        whole = jax.block_until_ready(_put(whole, part, place))
        for array in jax.tree.leaves(part):
            array.delete()
    return whole


def _room(count: int, part: jax.ShapeDtypeStruct) -> Any:
    shape, sharding = (count, *part.shape), stacked(part.sharding)
    return jax.ShapeDtypeStruct(shape, part.dtype, sharding=sharding)


@partial(jax.jit, donate_argnums=0)
def _put(whole: Any, part: Any, place: Array) -> Any:
    return jax.tree.map(lambda stack, one: lax.dynamic_update_index_in_dim(stack, one, place, 0), whole, part)


def run(block: Block, specs: Sequence[Layer], stacked: Stacked, carry: tuple[Any, ...]) -> tuple[Any, ...]:
    """carry = block(layer, w, *carry) for every layer. The last is like the others, so that it can be in a loop."""
    specs = [replace(layer, final=False) for layer in specs]
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
    split = [_split(tree) for tree in trees]

    def period(carry: tuple[Any, ...], x: tuple[Any, Any]) -> tuple[tuple[Any, ...], None]:
        place, sliced = x
        for layer, step, w, (_, whole) in zip(members, steps, sliced, split, strict=True):
            tree = w | {name: replace(stack, place=place) for name, stack in whole.items()}
            carry = block(replace(layer, kv_index=layer.kv_index + place * step), tree, *carry)
        return carry, None

    carry, _ = lax.scan(period, carry, (jnp.arange(count), [sliced for sliced, _ in split]))
    return carry


def _split(tree: Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights of which each layer gets its slice, and experts, of which it gets the stack and its place in it: a kernel
    reads them where they lie, and a slice of them would be a copy."""
    whole = {name: w for name, w in tree.items() if isinstance(w, Weight) and w.array.ndim == EXPERT_STACK}
    return {name: w for name, w in tree.items() if name not in whole}, whole
