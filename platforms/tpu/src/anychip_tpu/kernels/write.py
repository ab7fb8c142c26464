"""Writing K and V of a step into their pages, in place.

XLA's own scatter would turn the whole cache into another layout and back. One row of a page is less than a tile of the
memory, so a page is read, changed and written back; each takes one step of the grid, and Pallas overlaps them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from anychip_sdk.kits.jax.scaled import Pages, ScaledPages, cells, scaled
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from anychip_tpu.kernels.interpreters import Interpret, call


@partial(jax.tree_util.register_dataclass, data_fields=["page", "start", "end", "tokens"], meta_fields=[])
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
    k: Array, v: Array, keys: Pages, values: Pages, layer: Any, writes: Writes, interpret: Interpret = False
) -> tuple[Pages, Pages]:
    """k, v: [T, K, D]; keys, values: [layers, pages, K, page_size, D], in 8 bits with scales [layers, pages, K, 1,
    lanes]; `layer`: int or traced scalar -> keys, values, which must be donated to stay where they are."""
    written: tuple[Pages, Pages] = call(_write, interpret, k, v, keys, values, layer, writes)
    return written


def _write(k: Array, v: Array, keys: Pages, values: Pages, layer: Any, writes: Writes, interpret: Interpret) -> Any:
    size = cells(keys).shape[3]
    rows = (_rows(k, keys, writes.tokens), _rows(v, values, writes.tokens))
    scalars = (jnp.asarray(layer, jnp.int32).reshape(1), writes.page, writes.start, writes.end)
    run = jax.tree.map(lambda new: pl.BlockSpec((1, *new.shape[1:]), lambda n, *_: (n, 0, 0, 0)), rows)
    page = jax.tree.map(
        lambda cache: pl.BlockSpec((1, 1, *cache.shape[2:]), lambda n, layer, page, *_: (layer[0], page[n], 0, 0, 0)),
        (keys, values),
    )
    count = len(jax.tree.leaves(rows))
    return pl.pallas_call(
        partial(_kernel, size),
        out_shape=jax.tree.map(lambda cache: jax.ShapeDtypeStruct(cache.shape, cache.dtype), (keys, values)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars), grid=(len(writes.page),), in_specs=[run, page], out_specs=page
        ),
        input_output_aliases={len(scalars) + count + i: i for i in range(count)},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
        name="write_pages",
    )(*scalars, rows, (keys, values))


def _rows(new: Array, pages: Pages, tokens: Array) -> Pages:
    """new: [T, K, D], tokens: [N, rows] -> what the runs bring: [N, K, rows, D], and scales [N, K, 1, lanes], which
    repeat along the lanes as they do in the cache."""
    if not isinstance(pages, ScaledPages):
        return new.astype(pages.dtype)[tokens].swapaxes(1, 2)
    numbers, scales = scaled(new, pages.numbers.dtype)
    lanes = jnp.tile(scales[tokens].swapaxes(1, 2), pages.scales.shape[-1] // tokens.shape[1])
    # Each number is one of bfloat16's too, and those of 8 bits cannot be laid out again in the kernel.
    return ScaledPages(numbers.astype(jnp.bfloat16)[tokens].swapaxes(1, 2), lanes[:, :, None])


def _kernel(size: int, layer: Any, page: Any, start: Any, end: Any, rows: Any, before: Any, *after: Any) -> None:
    n = pl.program_id(0)
    again = (n > 0) & (page[n] == page[jnp.maximum(n - 1, 0)])  # the page is still here, with what the last run wrote
    for new, was, now in zip(*map(jax.tree.leaves, (rows, before, after)), strict=True):
        shape = now.shape[2:]
        is_scales = shape[1] == 1  # one row of lanes; a page has more rows
        along = lax.broadcasted_iota(jnp.int32, shape, 2 if is_scales else 1)
        place = along % size if is_scales else along
        changes = (place >= start[n]) & (place < end[n])
        wide = jnp.float32 if now.dtype.itemsize == 1 else now.dtype  # no mask is as narrow as 8 bits
        kept = jnp.where(again, now[0, 0].astype(wide), was[0, 0].astype(wide))
        now[0, 0] = jnp.where(changes, new[0].astype(wide), kept).astype(now.dtype)
