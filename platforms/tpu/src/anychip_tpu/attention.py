"""Attention over pages, with kernels of our own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from anychip_sdk.contract import Batch, Layer
from anychip_sdk.kits.jax import JaxAttention, Ranks
from anychip_sdk.kits.jax.allocator import KV
from anychip_sdk.kits.jax.ranks import AXIS
from anychip_sdk.kits.jax.scaled import Pages, cells
from anychip_sdk.kits.jax.tiles import cut
from anychip_sdk.kits.jax.weights import Weight
from jax import Array
from jax.sharding import PartitionSpec

from anychip_tpu.kernels.attend import Work, attend
from anychip_tpu.kernels.interpreters import Interpret
from anychip_tpu.kernels.write import plan_writes, write

ROWS = 32
"""Tokens of a tile. Each of its KV heads multiplies these, times the query heads that share it, at once."""
_HEADS = PartitionSpec(None, AXIS)
"""[T, heads, D]"""
_SINKS = PartitionSpec(AXIS)
"""[heads]"""
_CACHE = PartitionSpec(None, None, AXIS)
"""[layers, pages, heads, page_size, D], or [layers, pages, heads, 1, lanes]"""


class TpuAttention(JaxAttention):
    """Each chip attends with its own heads. Heads are padded to the width of the cache, which the allocator makes whole
    rows of memory; V's heads are as wide as K's. interpret: see `kernels.interpreters`."""

    def __init__(self, ranks: Ranks, interpret: Interpret) -> None:
        self._ranks, self._interpret = ranks, interpret

    def begin(self, batch: Batch) -> Batch:
        batch.plan = {**batch.plan, "tiles": cut(batch, ROWS)}
        return batch

    def write(self, k: Array, v: Array, kv: KV, batch: Batch, layer: Layer) -> KV:
        group, bucket = layer.attention.group, batch.key.bucket

        def mine(
            k: Array, v: Array, keys: Pages, values: Pages, place: Array, slots: Array, real: Array
        ) -> tuple[Pages, Pages]:
            size, wide = cells(keys).shape[3:]
            writes = plan_writes(slots, real, size, bucket.seqs, decode=bucket.decode)
            k, v = (_pad(new, wide) for new in (k, v))
            return write(k, v, keys, values, place, writes, self._interpret)

        run = self._on_each(mine, (_HEADS, _HEADS, _CACHE, _CACHE), 3, (_CACHE, _CACHE))
        caches = run(k, v, *kv[group], _scalar(layer.kv_index), batch.slot_mapping[group], batch.counts[0])
        return (*kv[:group], caches, *kv[group + 1 :])

    def attend(self, q: Array, kv: KV, batch: Batch, layer: Layer) -> Array:
        return self._attend(q, kv, batch, layer, None)

    def attend_with_sinks(self, q: Array, kv: KV, batch: Batch, layer: Layer, sinks: Weight) -> Array:
        return self._attend(q, kv, batch, layer, sinks.array)

    def _attend(self, q: Array, kv: KV, batch: Batch, layer: Layer, sinks: Array | None) -> Array:
        spec, tiles = layer.attention, batch.plan["tiles"]
        table = batch.page_table[spec.group]

        def mine(sinks: Array | None, q: Array, keys: Pages, values: Pages, place: Array, *arrays: Array) -> Array:
            (T, H, D), (K, _, wide) = q.shape, cells(keys).shape[2:]
            seq, position, count, pages, tokens, tile, row = arrays
            heads = _pad(q, wide)[tokens]  # [N, Q, H, D]
            N, Q = tokens.shape
            rows = heads.reshape(N, Q, K, H // K, -1).swapaxes(1, 2).reshape(N, K, Q * H // K, -1)
            work = Work(seq, position, count, pages, table.shape[1])
            out = attend(rows, keys, values, place, work, spec, H // K, sinks, self._interpret)
            return out.reshape(N, K, Q, H // K, -1).swapaxes(1, 2)[tile, row].reshape(T, H, -1)[..., :D]

        run = self._on_each(mine, (_SINKS, _HEADS, _CACHE, _CACHE), 8, _HEADS)
        first = tiles.positions[:, 0]
        plan = (tiles.seq, first, tiles.count, table.reshape(-1), tiles.tokens, tiles.tile, tiles.row)
        out = run(sinks, q, *kv[spec.group], _scalar(layer.kv_index), *plan)  # [T, H, D]
        return jnp.where(tiles.real[:, None], out.reshape(len(q), -1), 0)

    def _on_each(self, body: Callable[..., Any], split: tuple[Any, ...], whole: int, out: Any) -> Callable[..., Any]:
        """body on every chip: of the first arrays it gets its part, of the next `whole` ones all."""
        specs = (*split, *[PartitionSpec()] * whole)
        return jax.shard_map(body, mesh=self._ranks.mesh, in_specs=specs, out_specs=out, check_vma=False)


def _scalar(place: Any) -> Array:
    return jnp.asarray(place, jnp.int32)


def _pad(heads: Array, wide: int) -> Array:
    """[.., D] -> [.., wide], with zeros."""
    missing = wide - heads.shape[-1]
    return jnp.pad(heads, ((0, 0), (0, 0), (0, missing))) if missing else heads
