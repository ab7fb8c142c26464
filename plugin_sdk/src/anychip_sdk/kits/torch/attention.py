"""Ragged paged attention: decodes in one batched product, each prefill in one scaled-dot-product call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anychip_sdk.contract import Attention, AttentionSpec, Batch, Layer
from anychip_sdk.kits.torch.allocator import KV
from anychip_sdk.kits.torch.rope import rms_norm, rotate
from anychip_sdk.kits.torch.weights import Weight

Segment = tuple[int, int, int, int]
"""A prefilling sequence: its row, its first token, its tokens in this step, its length with them."""


@dataclass
class Decodes:
    """What the decoding sequences (B) read in every layer of one kind. L = columns * page_size places each."""

    rows: Tensor  # [B * K * columns] rows of the cache seen as [pages * K, page_size, D]
    masked: Tensor  # [B, 1, 1, L] bool: places that are not the sequence's, or behind its window
    wipe: Tensor | None  # [n] rows of V seen as [B * K * L, D] at masked places, which may hold NaN
    columns: int


@dataclass
class Prefill:
    """What one prefilling sequence reads: places first..end of its pages."""

    segment: Segment
    rows: Tensor  # [K * columns] as above
    first: int
    end: int
    mask: Tensor | None  # [n, end - first] bool, True is seen; None: plainly causal


class TorchAttention(Attention):
    """Work lists are made once a step and kind of layer, in `batch.plan`."""

    def plan(self, host: Batch) -> tuple[int, tuple[Segment, ...]]:
        """Eager devices run exact shapes and keep nothing per key, so the key may name every sequence."""
        decodes, starts = int(host.counts[3]), host.query_start.tolist()
        lengths = host.seq_lens.tolist()
        rows = range(decodes, int(host.counts[1]))
        return decodes, tuple((r, starts[r], starts[r + 1] - starts[r], lengths[r]) for r in rows)

    def write(self, k: Tensor, v: Tensor, kv: KV, batch: Batch, layer: Layer) -> KV:
        group = layer.attention.group
        made: dict[Any, Any] = batch.plan  # type: ignore[assignment]
        rows = made.get(("write", group))
        keys, values = (cache[layer.kv_index] for cache in kv[group])
        heads, size = keys.shape[1:3]
        if rows is None:
            slots = batch.slot_mapping[group].long()[:, None]  # [T, 1]
            head = torch.arange(heads, device=k.device)
            rows = ((slots // size * heads + head) * size + slots % size).flatten()  # [T * K]
            made["write", group] = rows
        for cache, new in ((keys, k), (values, v)):
            cache.view(-1, cache.shape[-1]).index_copy_(0, rows, new.reshape(-1, new.shape[-1]).to(cache.dtype))
        return kv

    def attend(self, q: Tensor, kv: KV, batch: Batch, layer: Layer) -> Tensor:
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])
        decodes, prefills = self._work(batch, spec, keys)
        count = _static(batch)[0]
        T, H = q.shape[:2]
        if decodes is not None and count == T:
            return _decode(q, keys, values, decodes, spec).view(T, -1)
        out = torch.zeros(T, H, values.shape[-1], dtype=q.dtype, device=q.device)
        if decodes is not None:
            out[:count] = _decode(q[:count], keys, values, decodes, spec)
        for work in prefills:
            _, start, n, _ = work.segment
            out[start : start + n] = _prefill(q[start : start + n], keys, values, work, spec)
        return out.view(T, -1)

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
        q, k = q.view(T, -1, D), k.view(T, -1, D)
        v = v.view(T, k.shape[1], -1)
        if q_norm is not None:
            q = rms_norm(q, q_norm.tensor, layer.attention.eps)
        if k_norm is not None:
            k = rms_norm(k, k_norm.tensor, layer.attention.eps)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, self.write(k, v, kv, batch, layer)

    def _work(self, batch: Batch, spec: AttentionSpec, keys: Tensor) -> tuple[Decodes | None, list[Prefill]]:
        key = ("work", spec.group, spec.window)
        made: dict[Any, Any] = batch.plan  # type: ignore[assignment]
        work = made.get(key)
        if work is None:
            count, segments = _static(batch)
            decodes = _plan_decodes(batch, spec, keys, count) if count else None
            work = decodes, [_plan_prefill(batch, spec, keys, s) for s in segments]
            made[key] = work
        return work  # type: ignore[no-any-return]


def _static(batch: Batch) -> tuple[int, tuple[Segment, ...]]:
    """What `plan` returned."""
    return batch.key.static  # type: ignore[return-value]


def _head_rows(pages: Tensor, heads: int) -> Tensor:
    """pages: [B, C] -> [B * K * C] rows of the cache seen as [pages * K, ...], heads before columns."""
    head = torch.arange(heads, device=pages.device)[:, None]
    return (pages.long()[:, None, :] * heads + head).flatten()


def _plan_decodes(batch: Batch, spec: AttentionSpec, keys: Tensor, count: int) -> Decodes:
    heads, size = keys.shape[1:3]
    table, lengths = batch.page_table[spec.group, :count], batch.seq_lens[:count].long()
    columns = table.shape[1]
    first = torch.zeros_like(lengths)  # [B] column where reading starts
    if spec.window is not None and (seen := -(-spec.window // size) + 1) < columns:
        columns = seen
        first = (lengths - spec.window).clamp_min(0) // size
        index = (first[:, None] + torch.arange(columns, device=table.device)).clamp_max(table.shape[1] - 1)
        table = table.gather(1, index)
    place = first[:, None] * size + torch.arange(columns * size, device=table.device)  # [B, L]
    masked = place >= lengths[:, None]
    if spec.window is not None:
        masked |= place < (lengths - spec.window)[:, None]
    wipe = masked[:, None, :].expand(-1, heads, -1).flatten().nonzero()[:, 0] if keys.device.type == "cpu" else None
    return Decodes(_head_rows(table, heads), masked[:, None, None, :], wipe, columns)


def _plan_prefill(batch: Batch, spec: AttentionSpec, keys: Tensor, segment: Segment) -> Prefill:
    row, _, n, end = segment
    heads, size = keys.shape[1:3]
    start = end - n
    begin = 0 if spec.window is None else max(0, start - spec.window + 1)
    column = begin // size
    first = begin - column * size
    pages = batch.page_table[spec.group, row : row + 1, column : -(-end // size)]
    rows, last = _head_rows(pages, heads), first + end - begin
    if start == 0 and (spec.window is None or n <= spec.window):
        return Prefill(segment, rows, first, last, None)
    position = torch.arange(start, end, device=keys.device)[:, None]
    place = torch.arange(begin, end, device=keys.device)
    mask = place <= position
    if spec.window is not None:
        mask &= place > position - spec.window
    return Prefill(segment, rows, first, last, mask)


def _gather(cache: Tensor, rows: Tensor) -> Tensor:
    """-> [rows, page_size, D], a copy."""
    return cache.view(-1, *cache.shape[2:]).index_select(0, rows)


def _decode(q: Tensor, keys: Tensor, values: Tensor, work: Decodes, spec: AttentionSpec) -> Tensor:
    """q: [B, H, D] -> [B, H, Dv]. The query heads of one KV head are the rows of one product."""
    B, H, D = q.shape
    K, size = keys.shape[1:3]
    L = work.columns * size
    k = _gather(keys, work.rows).view(B * K, L, D).to(q.dtype)
    v = _gather(values, work.rows).view(B * K, L, -1).to(q.dtype)
    scores = torch.bmm((q * spec.scale).view(B * K, H // K, D), k.transpose(1, 2)).view(B, K, H // K, L)
    if spec.softcap is not None:
        scores = torch.tanh(scores / spec.softcap) * spec.softcap
    # Masked places may hold NaN: filling the scores guards K; V is wiped, since 0 * NaN is NaN.
    p = scores.masked_fill_(work.masked, -torch.inf).softmax(-1, dtype=torch.float32).to(q.dtype)
    if work.wipe is None:
        v = v.view(B, K, L, -1).masked_fill(work.masked.transpose(2, 3), 0.0).view(B * K, L, -1)
    elif len(work.wipe):
        v.view(B * K * L, -1).index_fill_(0, work.wipe, 0.0)
    return torch.bmm(p.view(B * K, H // K, L), v).view(B, H, -1)


def _prefill(q: Tensor, keys: Tensor, values: Tensor, work: Prefill, spec: AttentionSpec) -> Tensor:
    """q: [n, H, D] -> [n, H, Dv]."""
    K = keys.shape[1]
    k = _gather(keys, work.rows).view(K, -1, keys.shape[-1])[:, work.first : work.end].to(q.dtype)
    v = _gather(values, work.rows).view(K, -1, values.shape[-1])[:, work.first : work.end].to(q.dtype)
    heads = q.transpose(0, 1)  # [H, n, D]
    if spec.softcap is not None:
        return _capped(heads, k, v, work, spec).transpose(0, 1)
    out = F.scaled_dot_product_attention(
        heads[None],
        k[None],
        v[None],
        attn_mask=work.mask,
        is_causal=work.mask is None,
        scale=spec.scale,
        enable_gqa=heads.shape[0] != K,
    )
    return out[0].transpose(0, 1)


def _capped(q: Tensor, k: Tensor, v: Tensor, work: Prefill, spec: AttentionSpec) -> Tensor:
    """Softcap, which torch's fused call does not have. q: [H, n, D] -> [H, n, Dv]."""
    assert spec.softcap is not None
    H, n, _ = q.shape
    grouped = q.reshape(k.shape[0], -1, n, q.shape[-1])  # [K, H / K, n, D]
    scores = (grouped * spec.scale) @ k[:, None].transpose(-1, -2)
    scores = torch.tanh(scores / spec.softcap) * spec.softcap
    seen = work.mask if work.mask is not None else torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    p = scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32).to(q.dtype)
    return (p @ v[:, None]).reshape(H, n, -1)
