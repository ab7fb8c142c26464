"""Ragged paged attention: tiles of queries walk over their pages, which stream from HBM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from anychip_sdk.contract import AttentionSpec
from anychip_sdk.kits.jax.scaled import Pages, ScaledPages, cells
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from anychip_tpu.kernels.interpreters import Interpret, call

BUFFER_BYTES = 2**23
"""VMEM that pages may take: two blocks of K and of V."""
MOST_PLACES = 512
"""Places of the KV cache in a block, at most: more make no DMA longer, and scores larger."""
LOWEST = -1e30
"""Where a running maximum starts: finite, so that a row which has seen nothing has no infinities to subtract."""


@partial(jax.tree_util.register_dataclass, data_fields=["seq", "position", "count", "table"], meta_fields=["columns"])
@dataclass(frozen=True)
class Work:
    """What the kernel does, tile by tile. Tiles with a count of 0 are the last ones and do nothing."""

    seq: Array
    """[N] row of the sequence in the page table"""
    position: Array
    """[N] place of the tile's first token in its sequence; its other tokens follow"""
    count: Array
    """[N] tokens"""
    table: Array
    """[B * P] pages of each sequence in order"""
    columns: int
    """P"""


@dataclass(frozen=True)
class Shape:
    """Static sizes of one call: `group` rows of queries are one token's; page_size places in a page, `pages` pages in a
    block, `columns` in the page table."""

    group: int
    page_size: int
    pages: int
    columns: int
    spec: AttentionSpec

    @property
    def places(self) -> int:
        return self.page_size * self.pages


def attend(
    q: Array,
    keys: Pages,
    values: Pages,
    layer: Any,
    work: Work,
    spec: AttentionSpec,
    group: int,
    sinks: Array | None = None,
    interpret: Interpret = False,
) -> Array:
    """q: [N, K, R, D], R = rows of a tile times `group`, a token's rows side by side. keys, values:
    [layers, pages, K, page_size, D or Dv], in 8 bits with scales [layers, pages, K, 1, LANES], which are folded into
    scores and probabilities; `layer`: int or traced scalar; sinks: [H] float32, one more score of each query head.
    -> [N, K, R, Dv], q's dtype; what tiles with a count of 0 give is arbitrary. An online softmax over blocks of pages
    (FlashAttention, arXiv:2205.14135)."""
    out: Array = call(_attend, interpret, q, keys, values, layer, work, sinks, spec=spec, group=group)
    return out


def _attend(
    q: Array,
    keys: Pages,
    values: Pages,
    layer: Any,
    work: Work,
    sinks: Array | None,
    spec: AttentionSpec,
    group: int,
    interpret: Interpret,
) -> Any:
    N, K, R, D = q.shape
    size, Dv = cells(keys).shape[3], cells(values).shape[4]
    shape = Shape(group, size, _pages_of_block(keys, values, work.columns), work.columns, spec)
    scalars = (jnp.asarray(layer, jnp.int32).reshape(1), work.seq, work.position, work.count, work.table)

    def tile(n: Array, *_: Any) -> tuple[Array, int, int, int]:
        return n, 0, 0, 0

    rows = () if sinks is None else (_of_rows(sinks, K, R, group),)
    in_vmem = tuple(pl.BlockSpec(each.shape, lambda *_: (0, 0, 0)) for each in rows)
    in_hbm = jax.tree.map(lambda _: pl.BlockSpec(memory_space=pltpu.HBM), (keys, values))
    return pl.pallas_call(
        partial(_kernel, shape),
        out_shape=jax.ShapeDtypeStruct((N, K, R, Dv), q.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(N,),
            in_specs=[in_vmem, pl.BlockSpec((1, K, R, D), tile), *in_hbm],
            out_specs=pl.BlockSpec((1, K, R, Dv), tile),
            scratch_shapes=_scratch(shape, keys, values, (K, R, Dv)),
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",), vmem_limit_bytes=2**26),
        interpret=interpret,
        name="ragged_paged_attention",
    )(*scalars, rows, q, keys, values)


def _of_rows(sinks: Array, heads: int, rows: int, group: int) -> Array:
    """[H] -> [K, R, 1]: what each row of a tile starts with."""
    each = jnp.broadcast_to(sinks.reshape(heads, 1, group), (heads, rows // group, group))
    return jnp.maximum(each, LOWEST).reshape(heads, rows, 1)


def _scratch(shape: Shape, keys: Pages, values: Pages, out: tuple[int, int, int]) -> list[Any]:
    """out: [K, R, Dv] of a tile. Two buffers and when they are there, which one is next, and the running softmax."""
    arrays = len(jax.tree.leaves((keys, values)))
    return [
        _buffer(shape, keys),
        _buffer(shape, values),
        pltpu.SemaphoreType.DMA((arrays, 2)),
        pltpu.SMEM((1,), jnp.int32),
        pltpu.VMEM((*out[:2], 1), jnp.float32),
        pltpu.VMEM((*out[:2], 1), jnp.float32),
        pltpu.VMEM(out, jnp.float32),
    ]


def _buffer(shape: Shape, pages: Pages) -> Any:
    """Room for two blocks: [2, K, places, D], and scales [2, pages, K, 1, LANES]."""
    _, _, K, _, D = cells(pages).shape
    numbers = pltpu.VMEM((2, K, shape.places, D), cells(pages).dtype)
    if not isinstance(pages, ScaledPages):
        return numbers
    return ScaledPages(numbers, pltpu.VMEM((2, shape.pages, *pages.scales.shape[2:]), pages.scales.dtype))


def _pages_of_block(keys: Pages, values: Pages, columns: int) -> int:
    _, _, K, size, _ = cells(keys).shape
    place = 2 * K * sum(cells(pages).shape[4] * cells(pages).dtype.itemsize for pages in (keys, values))
    return max(1, min(MOST_PLACES // size, BUFFER_BYTES // (place * size), columns))


def _kernel(
    shape: Shape,
    layer: Any, seq: Any, position: Any, count: Any, table: Any,
    sinks: Any, q_ref: Any, keys: Any, values: Any, out_ref: Any,
    k_buffer: Any, v_buffer: Any, arrived: Any, parity: Any, largest: Any, total: Any, out: Any,
) -> None:  # fmt: skip
    """One tile. `parity`: which of the two buffers its first block is in, or on its way to."""
    n = pl.program_id(0)
    pages = _Pages(shape, layer[0], seq, position, count, table, keys, values, k_buffer, v_buffer, arrived)

    pages.start(0, 0, 0, n == 0)

    @pl.when(n == 0)
    def _() -> None:
        parity[0] = 0

    @pl.when(count[n] > 0)
    def _() -> None:
        first, last = pages.span(n)
        blocks = pl.cdiv(last - first, shape.pages)
        follower = jnp.minimum(n + 1, pl.num_programs(0) - 1)
        # A sink is there before any place is seen, and its weight is exp(0).
        largest[...] = sinks[0][...] if sinks else jnp.full_like(largest, LOWEST)
        total[...] = jnp.ones_like(total) if sinks else jnp.zeros_like(total)
        out[...] = jnp.zeros_like(out)

        def step(block: Any, slot: Any) -> Any:
            mine = block + 1 < blocks
            # What comes next, while this block is worked on.
            more = mine | (follower > n)
            pages.start(jnp.where(mine, n, follower), jnp.where(mine, block + 1, 0), 1 - slot, more)
            pages.wait(n, block, slot)
            at = (first + block * shape.pages) * shape.page_size
            _wipe(shape, cells(v_buffer).at[slot], at, position[n], count[n])
            k, v = (_Block(cells(b)[slot], _scales(shape, b, slot)) for b in (k_buffer, v_buffer))
            _accumulate(shape, q_ref[0], k, v, at, position[n], count[n], largest, total, out)
            return 1 - slot

        parity[0] = lax.fori_loop(0, blocks, step, parity[0])
        out_ref[0] = (out[...] / total[...]).astype(out_ref.dtype)


@dataclass(frozen=True)
class _Pages:
    """The DMAs that bring blocks of pages from the caches in HBM to the buffers."""

    shape: Shape
    layer: Any
    seq: Any
    position: Any
    count: Any
    table: Any
    keys: Any
    values: Any
    k_buffer: Any
    v_buffer: Any
    arrived: Any

    def span(self, tile: Any) -> tuple[Any, Any]:
        """First column of the page table that a tile sees, and the one behind its last. None where it has no tokens."""
        first = _start(self.shape, self.position[tile]) // self.shape.page_size
        last = pl.cdiv(self.position[tile] + self.count[tile], self.shape.page_size)
        return first, jnp.where(self.count[tile] > 0, last, first)

    def start(self, tile: Any, block: Any, slot: Any, wanted: Any) -> None:
        self._each(tile, block, slot, wanted, lambda copy: copy.start())

    def wait(self, tile: Any, block: Any, slot: Any) -> None:
        self._each(tile, block, slot, True, lambda copy: copy.wait())

    def _each(self, tile: Any, block: Any, slot: Any, wanted: Any, act: Callable[[Any], None]) -> None:
        """The DMA of every page of a block, if it is wanted; the last block may end before its buffer does."""
        shape = self.shape
        first, last = self.span(tile)
        column = first + block * shape.pages

        def page(i: Any, _: None) -> None:
            number = self.table[self.seq[tile] * shape.columns + column + i]
            rows = pl.ds(pl.multiple_of(i * shape.page_size, shape.page_size), shape.page_size)
            both = ((self.keys, self.k_buffer), (self.values, self.v_buffer))
            copies = [(cells(cache), cells(buffer).at[slot, :, rows]) for cache, buffer in both]
            copies += [(c.scales, b.scales.at[slot, i]) for c, b in both if isinstance(c, ScaledPages)]
            for which, (cache, target) in enumerate(copies):
                act(pltpu.make_async_copy(cache.at[self.layer, number], target, self.arrived.at[which, slot]))

        count = jnp.where(wanted, jnp.minimum(shape.pages, last - column), 0)
        lax.fori_loop(0, count, page, None)


def _start(shape: Shape, position: Any) -> Any:
    """The first place that the first token of a tile sees."""
    window = shape.spec.window
    return 0 if window is None else jnp.maximum(0, position - window + 1)


@dataclass(frozen=True)
class _Block:
    """K or V of the places of a block."""

    numbers: Any
    """[K, L, D]"""
    scales: Any
    """[K, 1, L] float32, or None"""


def _scales(shape: Shape, buffer: Pages, slot: Any) -> Any:
    """Those of a block in order, one row of lanes after the other. A page's scales repeat along its row, so each of the
    pages that share a row gives its own lanes, and none has to be moved."""
    if not isinstance(buffer, ScaledPages):
        return None
    lanes = buffer.scales.shape[-1]
    shared = lanes // shape.page_size  # pages whose scales fill one row
    rows = []
    for first in range(0, shape.pages, shared):
        row = buffer.scales[slot, first]  # [K, 1, LANES]
        owner = lax.broadcasted_iota(jnp.int32, row.shape, 2) // shape.page_size
        for i in range(1, min(shared, shape.pages - first)):
            row = jnp.where(owner == i, buffer.scales[slot, first + i], row)
        rows.append(row)
    return jnp.concatenate(rows, axis=2)[:, :, : shape.places]


def _wipe(shape: Shape, v: Any, at: Any, position: Any, count: Any) -> None:
    """Places that nobody sees may hold NaN, and 0 * NaN is NaN."""
    if not jnp.issubdtype(v.dtype, jnp.floating):
        return
    start, end = _start(shape, position), position + count

    @pl.when((at < start) | (at + shape.places > end))
    def _() -> None:
        place = at + lax.broadcasted_iota(jnp.int32, v.shape, 1)
        kept = jnp.where((place >= start) & (place < end), v[...].astype(jnp.float32), 0.0)
        v[...] = kept.astype(v.dtype)


def _accumulate(
    shape: Shape, q: Any, k: _Block, v: _Block, at: Any, position: Any, count: Any, largest: Any, total: Any, out: Any
) -> None:
    """One block more. q: [K, R, D]; at: place of the block's first row."""
    spec = shape.spec
    exact = lax.Precision.HIGHEST if q.dtype == jnp.float32 else lax.Precision.DEFAULT
    product = partial(lax.dot_general, precision=exact, preferred_element_type=jnp.float32)
    scores = spec.scale * product(q, k.numbers.astype(q.dtype), (((2,), (2,)), ((0,), (0,))))  # [K, R, L]
    if k.scales is not None:
        scores = scores * k.scales
    if spec.softcap is not None:
        scores = spec.softcap * jnp.tanh(scores / spec.softcap)
    rows = position + lax.broadcasted_iota(jnp.int32, scores.shape, 1) // shape.group
    places = at + lax.broadcasted_iota(jnp.int32, scores.shape, 2)
    seen = (places <= rows) & (places < position + count)
    if spec.window is not None:
        seen &= places > rows - spec.window
    scores = jnp.where(seen, scores, LOWEST)
    before = largest[...]
    now = jnp.maximum(before, scores.max(-1, keepdims=True))
    fade = jnp.exp(before - now)
    p = jnp.where(seen, jnp.exp(scores - now), 0.0)
    total[...] = total[...] * fade + p.sum(-1, keepdims=True)
    if v.scales is not None:
        p = jnp.where(seen, p * v.scales, 0.0)  # the scale of a place that nobody sees may be NaN
    out[...] = out[...] * fade + product(p.astype(q.dtype), v.numbers.astype(q.dtype), (((2,), (1,)), ((0,), (0,))))
    largest[...] = now
