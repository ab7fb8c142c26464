"""Ragged paged attention in blocks of pages, with a running softmax (FlashAttention, arXiv:2205.14135)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from anychip_sdk.contract import Attention, AttentionSpec, Batch, Layer
from anychip_sdk.kits.jax.allocator import KV
from anychip_sdk.kits.jax.math import precision, rms_norm, rotate
from anychip_sdk.kits.jax.scaled import Pages, cells, load, store
from anychip_sdk.kits.jax.tiles import Tiles, cut
from anychip_sdk.kits.jax.weights import Weight
from anychip_sdk.kits.limits import refuse_wide_heads

BLOCK = 128
"""Places of the KV cache that each tile reads at a time."""
LOWEST = -1e30
"""Where a running maximum starts: finite, so that a tile which has seen nothing yet has no infinities to subtract."""


class JaxAttention(Attention):
    """Each tile (see `tiles`) walks over the pages it sees; all tiles walk together, as far as the longest. Memory
    grows with tiles times BLOCK, whatever the context."""

    def supports(self, spec: AttentionSpec) -> None:
        refuse_wide_heads(spec)

    def begin(self, batch: Batch) -> Batch:
        batch.plan = {**batch.plan, "tiles": cut(batch)}
        return batch

    def write(self, k: Array, v: Array, kv: KV, batch: Batch, layer: Layer) -> KV:
        group = layer.attention.group
        keys, values = kv[group]
        page, offset = jnp.divmod(batch.slot_mapping[group], cells(keys).shape[3])  # [T] each
        keys, values = (store(cache, layer.kv_index, page, offset, new) for cache, new in ((keys, k), (values, v)))
        return (*kv[:group], (keys, values), *kv[group + 1 :])

    def attend(self, q: Array, kv: KV, batch: Batch, layer: Layer) -> Array:
        return self._attend(q, kv, batch, layer, None)

    def attend_with_sinks(self, q: Array, kv: KV, batch: Batch, layer: Layer, sinks: Weight) -> Array:
        return self._attend(q, kv, batch, layer, sinks.array)

    def _attend(self, q: Array, kv: KV, batch: Batch, layer: Layer, sinks: Array | None) -> Array:
        """sinks: [H] float32"""
        spec, tiles = layer.attention, batch.plan["tiles"]
        keys, values = kv[spec.group]
        T, H, D = q.shape
        K = cells(keys).shape[2]
        heads = q[tiles.tokens].reshape(*tiles.tokens.shape, K, H // K, D)  # [N, Q, K, G, D]
        each = None if sinks is None else sinks.reshape(K, H // K, 1)
        out = _walk(heads, keys, values, batch.page_table[spec.group], tiles, layer, each)  # [N, Q, K, G, Dv]
        mine = out[tiles.tile, tiles.row].reshape(T, -1)
        return jnp.where(tiles.real[:, None], mine, 0).astype(q.dtype)

    def prepare(
        self,
        q: Array,
        k: Array,
        v: Array,
        kv: KV,
        batch: Batch,
        layer: Layer,
        *,
        angles: Any = None,
        q_norm: Weight | None = None,
        k_norm: Weight | None = None,
    ) -> tuple[Array, KV]:
        T, D = q.shape[0], layer.attention.head_dim
        H, K = q.shape[1] // D, k.shape[1] // D
        q, k, v = q.reshape(T, H, D), k.reshape(T, K, D), v.reshape(T, K, v.shape[1] // K)
        if q_norm is not None:
            q = rms_norm(q, q_norm.array, layer.attention.eps)
        if k_norm is not None:
            k = rms_norm(k, k_norm.array, layer.attention.eps)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, self.write(k, v, kv, batch, layer)


def _walk(q: Array, keys: Pages, values: Pages, table: Array, tiles: Tiles, layer: Layer, sinks: Array | None) -> Array:
    """q: [N, Q, K, G, D]; keys, values: [layers, pages, K, page_size, D]; table: [B, P]; sinks: [K, G, 1]
    -> [N, Q, K, G, Dv] float32."""
    spec, size = layer.attention, cells(keys).shape[3]
    N, Q, K, G, _ = q.shape
    columns = min(max(1, BLOCK // size), table.shape[1])
    end = jnp.where(tiles.count > 0, tiles.positions[:, 0] + tiles.count, 0)  # [N] places seen lie before it
    start = jnp.zeros_like(end)
    if spec.window is not None:
        start = jnp.maximum(0, tiles.positions[:, 0] - spec.window + 1)
    first = start // size  # [N] column where reading starts
    blocks = jnp.max(-(-(end - first * size) // (columns * size)), initial=0)

    def block(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        column = first[:, None] + i * columns + jnp.arange(columns)  # [N, C]
        pages = table[tiles.seq[:, None], jnp.minimum(column, table.shape[1] - 1)]
        place = (column[:, :, None] * size + jnp.arange(size)).reshape(N, -1)  # [N, L]
        k, v = (_pages(cache, layer, pages, q.dtype) for cache in (keys, values))  # [N, L, K, D], [N, L, K, Dv]
        within = (place >= start[:, None]) & (place < end[:, None])
        # Masked places may hold NaN: masking the scores guards K; V is wiped, since 0 * NaN is NaN.
        v = jnp.where(within[:, :, None, None], v, 0)
        seen = within[:, None, :] & (place[:, None, :] <= tiles.positions[:, :, None])  # [N, Q, L]
        if spec.window is not None:
            seen &= place[:, None, :] > tiles.positions[:, :, None] - spec.window
        return _accumulate(q, k, v, seen[:, :, None, None, :], spec, carry)

    zeros = jnp.zeros((N, Q, K, G, cells(values).shape[-1]), jnp.float32)
    _, total, out = lax.fori_loop(0, blocks, block, (*_start((N, Q, K, G, 1), sinks), zeros))
    return out / jnp.where(total == 0, 1, total)


def _start(rows: tuple[int, ...], sinks: Array | None) -> tuple[Array, Array]:
    """The largest score and the sum of weights before any place is seen: none, or a sink's, whose weight is exp(0)."""
    if sinks is None:
        return jnp.full(rows, LOWEST, jnp.float32), jnp.zeros(rows, jnp.float32)
    return jnp.broadcast_to(jnp.maximum(sinks, LOWEST), rows), jnp.ones(rows, jnp.float32)


def _pages(cache: Pages, layer: Layer, pages: Array, dtype: Any) -> Array:
    """pages: [N, C] -> their places in order, [N, C * page_size, K, D]."""
    read = load(cache, layer.kv_index, pages, dtype)  # [N, C, K, page_size, D]
    return read.swapaxes(2, 3).reshape(len(pages), -1, read.shape[2], read.shape[4])


def _accumulate(
    q: Array, k: Array, v: Array, seen: Array, spec: AttentionSpec, carry: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """One block more. q: [N, Q, K, G, D], k: [N, L, K, D], v: [N, L, K, Dv], seen: [N, Q, 1, 1, L]; carry: largest
    score and sum of weights [N, Q, K, G, 1], weighted sum of values [N, Q, K, G, Dv], all float32."""
    largest, total, out = carry
    exact = precision(q)
    scores = spec.scale * jnp.einsum("nqkgd,nlkd->nqkgl", q, k, precision=exact, preferred_element_type=jnp.float32)
    if spec.softcap is not None:
        scores = spec.softcap * jnp.tanh(scores / spec.softcap)
    scores = jnp.where(seen, scores, LOWEST)
    now = jnp.maximum(largest, scores.max(-1, keepdims=True))
    fade = jnp.exp(largest - now)
    p = jnp.where(seen, jnp.exp(scores - now), 0)
    more = jnp.einsum("nqkgl,nlkd->nqkgd", p.astype(v.dtype), v, precision=exact, preferred_element_type=jnp.float32)
    return now, total * fade + p.sum(-1, keepdims=True), out * fade + more
