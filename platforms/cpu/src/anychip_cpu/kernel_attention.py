"""Attention on kernels of our own, on the pages as they lie: decode split over chunks of places, prefill in tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from anychip_sdk.contract import AttentionSpec, Batch, DType, KVSpec, Layer
from anychip_sdk.kits.torch.allocator import KV
from anychip_sdk.kits.torch.attention import TorchAttention
from anychip_sdk.kits.torch.scaled import FORMATS, Pages, ScaledPages, cells
from anychip_sdk.kits.torch.weights import TORCH_DTYPES, Weight
from torch import Tensor

from anychip_cpu.launch import Launcher
from anychip_cpu.native import (
    DECODE_CHUNK,
    GROUP_MAX,
    HEAD_MAX,
    JOINED_ROWS,
    KEPT,
    PREFILL_ROWS,
    SUFFIXES,
    AttentionWork,
    Kernels,
    PrepareWork,
)


@dataclass
class Plan:
    """The work list of every layer of a kind, which the kernel `plan` writes from the batch's lengths."""

    task_first: Tensor
    task_sequence: Tensor
    task_order: Tensor
    scratch: Tensor
    scratch_stride: int


def _lacks(kept: torch.dtype, width: int, heads: int, kv_heads: int) -> str | None:
    """What the kernels do not take, if they do not. width: of a head's vectors of K and V, the wider of them."""
    if kept not in KEPT:
        return f"its kernels read no KV cache in {str(kept).removeprefix('torch.')}"
    if width > HEAD_MAX:
        return f"its kernels take heads of up to {HEAD_MAX} numbers, and the model's have {width}"
    if heads > GROUP_MAX * kv_heads:
        return f"its kernels take up to {GROUP_MAX} query heads to a KV head, and the model has {heads // kv_heads}"
    return None


class KernelAttention(TorchAttention):
    """With KV in float32, 16 bits or int8. KV in fp8, more than GROUP_MAX query heads to a KV head, heads wider than
    HEAD_MAX, and sinks are left to the torch kit."""

    def __init__(self, kernels: Kernels, launch: Launcher) -> None:
        self._kernels, self._launch = kernels, launch

    def fallback(self, spec: AttentionSpec, heads: int, kv: KVSpec, dtype: DType) -> str | None:
        group = kv.groups[spec.group]
        kept = {**TORCH_DTYPES, **FORMATS}[kv.dtype]
        return _lacks(kept, max(group.k_dim, group.v_dim), heads, group.kv_heads)

    def plan(self, host: Batch) -> Any:
        """Nothing of a batch is in its key: work lists are made of the uploaded lengths."""
        return None

    def begin(self, batch: Batch) -> Batch:
        batch = super().begin(replace(batch, key=replace(batch.key, static=TorchAttention.plan(self, batch))))
        batch.plan = {**batch.plan, "kernels": {}}
        return batch

    def write(self, k: Tensor, v: Tensor, kv: KV, batch: Batch, layer: Layer) -> KV:
        return self._launch.kit(super().write, k, v, kv, batch, layer)

    def attend(self, q: Tensor, kv: KV, batch: Batch, layer: Layer) -> Tensor:
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])
        T, H = q.shape[:2]
        if not self._serves(q, keys, values, H):
            return self._launch.kit(super().attend, q, kv, batch, layer)
        q = self._launch.dense(q)
        out = self._launch.empty_input((T, H * cells(values).shape[-1]), q.dtype, like=q)
        plans = batch.plan["kernels"]
        plan = plans.get((spec.group, spec.window))
        first = plan is None
        if first:
            plan = plans[spec.group, spec.window] = self._plan(batch, q, cells(keys), cells(values))
        work = self._work(batch, spec, q, out, keys, values, plan)
        if first:
            self._launch.run(self._kernels.plan, work)
        self._launch.run(self._kernels.of("decode", q.dtype), work)
        if not batch.key.bucket.decode:
            self._launch.run(self._kernels.of("prefill", q.dtype), work)
        return out

    def attend_with_sinks(self, q: Tensor, kv: KV, batch: Batch, layer: Layer, sinks: Weight) -> Tensor:
        return self._launch.kit(super().attend_with_sinks, q, kv, batch, layer, sinks)

    def prepare(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kv: KV,
        batch: Batch,
        layer: Layer,
        *,
        angles: Any = None,
        q_norm: Weight | None = None,
        k_norm: Weight | None = None,
    ) -> tuple[Tensor, KV]:
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])
        heads = q.shape[1] // spec.head_dim
        if not self._serves(q, keys, values, heads):
            norms = {"angles": angles, "q_norm": q_norm, "k_norm": k_norm}
            return self._launch.kit(super().prepare, q, k, v, kv, batch, layer, **norms)
        q, k, v = (self._launch.rows(x) for x in (q, k, v))
        K, size = cells(keys).shape[1:3]
        cosine, sine = (None, None) if angles is None else angles
        slots = batch.slot_mapping[spec.group]
        out = self._launch.empty((q.shape[0], heads, spec.head_dim), q.dtype, like=q)
        weights = (None if w is None else w.tensor for w in (q_norm, k_norm))
        work = PrepareWork(
            *(x.data_ptr() for x in (q, k, v, out)),
            *_pointers(keys, values),
            *(None if x is None else x.data_ptr() for x in (slots, cosine, sine, *weights)),
            *(self._launch.live(q), q.stride(0), k.stride(0), v.stride(0), q.shape[0], heads),
            *(K, spec.head_dim, cells(values).shape[-1], size, KEPT[cells(keys).dtype], spec.eps),
        )
        self._launch.run(self._kernels.of("prepare", q.dtype), work)
        return out, kv

    @staticmethod
    def _serves(q: Tensor, keys: Pages, values: Pages, heads: int) -> bool:
        vectors = cells(keys)
        width = max(vectors.shape[-1], cells(values).shape[-1])
        return q.dtype in SUFFIXES and _lacks(vectors.dtype, width, heads, vectors.shape[1]) is None

    def _plan(self, batch: Batch, q: Tensor, keys: Tensor, values: Tensor) -> Plan:
        """Room for the most that a batch of these shapes can take. Memory that is not written costs nothing.

        q: [T, H, D], keys and values: [pages, K, page_size, .] of any layer of the kind."""
        (T, H, D), (_, K, size, _), Dv = q.shape, keys.shape, values.shape[-1]
        sequences, pages = batch.page_table.shape[1:]
        chunks = sequences * -(-pages * size // DECODE_CHUNK)
        tiles = 0 if batch.key.bucket.decode else sequences + T // (PREFILL_ROWS // (H // K))
        wide = -(-Dv // 32) * 32
        floats = JOINED_ROWS * (D + wide + 66) + 64 * (D + wide) + 32
        scratch = max(chunks * H * (Dv + 2), torch.get_num_threads() * floats if tiles else 0)
        return Plan(
            self._launch.empty((sequences + 1,), torch.int32),
            self._launch.empty((chunks + tiles,), torch.int32),
            self._launch.empty((chunks + tiles,), torch.int32),
            self._launch.empty((scratch,)),
            floats,
        )

    @staticmethod
    def _work(
        batch: Batch, spec: AttentionSpec, q: Tensor, out: Tensor, keys: Pages, values: Pages, plan: Plan
    ) -> AttentionWork:
        table, (K, size) = batch.page_table[spec.group], cells(keys).shape[1:3]
        lists = (plan.task_first, plan.task_sequence, plan.task_order)
        given = (batch.counts, table, batch.seq_lens, batch.query_start)
        return AttentionWork(
            *(q.data_ptr(), out.data_ptr(), *_pointers(keys, values)),
            *(x.data_ptr() for x in (plan.scratch, *given, *lists)),
            *(q.shape[1], K, q.shape[2], cells(values).shape[-1], size, table.stride(0), out.stride(0)),
            *(spec.window or 0, KEPT[cells(keys).dtype], plan.scratch_stride, spec.scale, spec.softcap or 0.0),
        )


def _pointers(*caches: Pages) -> tuple[int | None, ...]:
    """Of K and V, and of their scales."""
    scales = (pages.scales.data_ptr() if isinstance(pages, ScaledPages) else None for pages in caches)
    return (*(cells(pages).data_ptr() for pages in caches), *scales)
