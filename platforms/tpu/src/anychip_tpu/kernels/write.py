"""Writing K and V of a step into their pages, in place.

XLA's own scatter would turn the whole cache into another layout and back. One row of a page is less than a tile of the
memory, so a page is read, changed and written back; each takes one step of the grid, and Pallas overlaps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from anychip_tpu.kernels.interpreters import Interpret


@dataclass(frozen=True)
class Writes:
    """What changes, one run of rows of a page after the other. Runs of one page stand side by side; those that change
    nothing are of page 0."""

    page: Array
    """[N]"""
    start: Array
    """[N] first row that changes"""
    end: Array
    """[N] the row behind the last"""
    tokens: Array
    """[N, rows] token whose K and V each row of the page takes; one column where a run is one token"""


def plan_writes(slots: Array, real: Array, page_size: int, seqs: int, *, decode: bool) -> Writes:
    """slots: [T], page * page_size + offset; `real`: how many of them are tokens. What goes to scratch is left out.
    decode: each token is a run. Else a run is as many tokens side by side as fill rows side by side, and no page is
    written by two sequences."""
    T = slots.shape[0]
    token = jnp.arange(T, dtype=jnp.int32)
    kept = (token < real) & (slots >= page_size)
    slots = jnp.where(kept, slots, 0)
    if decode:
        order = jnp.argsort(slots).astype(jnp.int32)
        page, start = jnp.divmod(slots[order], page_size)
        return Writes(page, start, start + kept[order], order[:, None])
    previous = jnp.concatenate([jnp.full(1, -1, slots.dtype), slots[:-1]])
    begins = kept & ((slots % page_size == 0) | (slots != previous + 1))
    N = min(T, T // page_size + 2 * seqs)
    first = jnp.nonzero(begins, size=N, fill_value=T)[0].astype(jnp.int32)  # [N]
    count = jnp.zeros(N, jnp.int32).at[jnp.where(kept, jnp.cumsum(begins) - 1, N)].add(1, mode="drop")
    page, start = jnp.divmod(jnp.where(first < T, slots[jnp.minimum(first, T - 1)], 0), page_size)
    tokens = first[:, None] + jnp.arange(page_size, dtype=jnp.int32) - start[:, None]
    return Writes(page, start, start + count, jnp.clip(tokens, 0, T - 1))


def write(
    k: Array, v: Array, keys: Array, values: Array, layer: Any, writes: Writes, interpret: Interpret = False
) -> tuple[Array, Array]:
    """k, v: [T, K, D]; keys, values: [layers, pages, K, page_size, D]; `layer`: int or traced scalar -> keys, values,
    which must be donated to stay where they are."""
    _, _, K, size, D = keys.shape
    k, v = (new.astype(keys.dtype)[writes.tokens].swapaxes(1, 2) for new in (k, v))  # [N, K, page_size or 1, D]
    scalars = (jnp.asarray(layer, jnp.int32).reshape(1), writes.page, writes.start, writes.end)
    page = pl.BlockSpec((1, 1, K, size, D), lambda n, layer, page, *_: (layer[0], page[n], 0, 0, 0))
    rows = pl.BlockSpec((1, *k.shape[1:]), lambda n, *_: (n, 0, 0, 0))
    first = len(scalars) + 2  # the caches come behind the rows
    keys, values = pl.pallas_call(
        _kernel,
        out_shape=[jax.ShapeDtypeStruct(cache.shape, cache.dtype) for cache in (keys, values)],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(len(k),),
            in_specs=[rows, rows, page, page],
            out_specs=[page, page],
        ),
        input_output_aliases={first: 0, first + 1: 1},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
        name="write_pages",
    )(*scalars, k, v, keys, values)
    return keys, values


def _kernel(
    layer: Any, page: Any, start: Any, end: Any, k: Any, v: Any,
    keys_before: Any, values_before: Any, keys_after: Any, values_after: Any,
) -> None:  # fmt: skip
    n = pl.program_id(0)
    again = (n > 0) & (page[n] == page[jnp.maximum(n - 1, 0)])  # the page is still here, with what the last run wrote
    place = lax.broadcasted_iota(jnp.int32, keys_after.shape[2:], 1)
    changes = (place >= start[n]) & (place < end[n])
    for rows, before, after in ((k, keys_before, keys_after), (v, values_before, values_after)):
        after[0, 0] = jnp.where(changes, rows[0], jnp.where(again, after[0, 0], before[0, 0]))
