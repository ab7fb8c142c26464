"""Ragged paged attention: decodes in batched or sparse products, each prefill in one scaled-dot-product call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anychip_sdk.contract import Attention, AttentionSpec, Batch, Layer
from anychip_sdk.kits.limits import refuse_wide_heads
from anychip_sdk.kits.torch.allocator import KV
from anychip_sdk.kits.torch.decode import Decodes, decode, plan_decodes
from anychip_sdk.kits.torch.prefill import Prefill, Segment, plan_prefill, prefill
from anychip_sdk.kits.torch.rope import rms_norm, rotate
from anychip_sdk.kits.torch.scaled import Pages, cells, store
from anychip_sdk.kits.torch.sparse import SparseDecodes, decode_sparse, has_sparse, plan_sparse
from anychip_sdk.kits.torch.weights import Weight

Static = tuple[int, tuple[Segment, ...]]
"""How many sequences decode, and the others one by one."""

Reads = tuple[Decodes | SparseDecodes | None, list[Prefill]]
"""What the decodes read, and each of the others."""


@dataclass
class Work:
    """Index tensors and masks of one step, made when the first layer of a kind asks and shared by the others."""

    writes: dict[int, Tensor] = field(default_factory=dict)
    reads: dict[tuple[int, int | None], Reads] = field(default_factory=dict)


class TorchAttention(Attention):
    """For devices that run exact shapes: `plan` names every sequence in the key. A device that captures or pads
    overrides `plan` and `attend`."""

    def supports(self, spec: AttentionSpec) -> None:
        refuse_wide_heads(spec)

    def plan(self, host: Batch) -> Static:
        decodes, starts = int(host.counts[3]), host.query_start.tolist()
        lengths = host.seq_lens.tolist()
        rows = range(decodes, int(host.counts[1]))
        return decodes, tuple((r, starts[r], starts[r + 1] - starts[r], lengths[r]) for r in rows)

    def begin(self, batch: Batch) -> Batch:
        batch.plan = {**batch.plan, "work": Work()}
        return batch

    def write(self, k: Tensor, v: Tensor, kv: KV, batch: Batch, layer: Layer) -> KV:
        group = layer.attention.group
        work: Work = batch.plan["work"]
        keys, values = (cache[layer.kv_index] for cache in kv[group])
        rows = work.writes.get(group)
        if rows is None:
            heads, size = cells(keys).shape[1:3]
            slots = batch.slot_mapping[group].long()[:, None]  # [T, 1]
            head = torch.arange(heads, device=k.device)
            rows = work.writes[group] = ((slots // size * heads + head) * size + slots % size).flatten()  # [T * K]
        for pages, new in ((keys, k), (values, v)):
            store(pages, rows, new.reshape(-1, new.shape[-1]))
        return kv

    def attend(self, q: Tensor, kv: KV, batch: Batch, layer: Layer) -> Tensor:
        return self._attend(q, kv, batch, layer, None)

    def attend_with_sinks(self, q: Tensor, kv: KV, batch: Batch, layer: Layer, sinks: Weight) -> Tensor:
        return self._attend(q, kv, batch, layer, sinks.tensor)

    def _attend(self, q: Tensor, kv: KV, batch: Batch, layer: Layer, sinks: Tensor | None) -> Tensor:
        """sinks: [H] float32"""
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])
        decodes, prefills = self._reads(batch, spec, keys, q)
        count = batch.key.static[0]  # type: ignore[index]  # what `plan` returned
        T, H = q.shape[:2]
        if decodes is not None and count == T:
            return _decode(q, keys, values, decodes, spec, sinks).reshape(T, -1)
        width = cells(values).shape[-1]
        out = torch.zeros(T, H, width, dtype=q.dtype, device=q.device)
        if decodes is not None:
            out[:count] = _decode(q[:count], keys, values, decodes, spec, sinks)
        for work in prefills:
            _, start, n, _ = work.segment
            out[start : start + n] = prefill(q[start : start + n], keys, values, work, spec, sinks)
        return out.view(T, H * width)

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
        T, D = q.shape[0], layer.attention.head_dim
        H, K = q.shape[1] // D, k.shape[1] // D
        q, k, v = q.view(T, H, D), k.view(T, K, D), v.view(T, K, v.shape[1] // K)
        if q_norm is not None:
            q = rms_norm(q, q_norm.tensor, layer.attention.eps)
        if k_norm is not None:
            k = rms_norm(k, k_norm.tensor, layer.attention.eps)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, self.write(k, v, kv, batch, layer)

    def _reads(self, batch: Batch, spec: AttentionSpec, keys: Pages, q: Tensor) -> Reads:
        work: Work = batch.plan["work"]
        reads = work.reads.get((spec.group, spec.window))
        if reads is None:
            static: Static = batch.key.static  # type: ignore[assignment]  # what `plan` returned
            count, segments = static
            decodes: Decodes | SparseDecodes | None = None
            if count and isinstance(keys, Tensor) and has_sparse(keys, q):
                decodes = plan_sparse(batch, spec, keys, count, q.shape[1])
            elif count:
                decodes = plan_decodes(batch, spec, cells(keys), count)
            reads = decodes, [plan_prefill(batch, spec, cells(keys), s) for s in segments]
            work.reads[spec.group, spec.window] = reads
        return reads


def _decode(
    q: Tensor,
    keys: Pages,
    values: Pages,
    work: Decodes | SparseDecodes,
    spec: AttentionSpec,
    sinks: Tensor | None,
) -> Tensor:
    """q: [B, H, D], sinks: [H] -> [B, H, Dv]."""
    if isinstance(work, Decodes):
        return decode(q, keys, values, work, spec, sinks)
    return decode_sparse(q, cells(keys), cells(values), work, spec, sinks)
