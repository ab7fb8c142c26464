"""Attention of the decoding sequences, one token each: batched products over gathered pages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anychip_sdk.contract import AttentionSpec, Batch
from anychip_sdk.kits.torch.scaled import Pages, cells, gather

HOST_GROUP = 8
"""Sequences that are attended together on the host, longest with longest: little is padded, and a group's pages stay
in the processor's cache. An accelerator takes all at once, since it pays per call."""


@dataclass
class Group:
    """What `count` sequences read in every layer of one kind: L = columns * page_size places each. K KV heads."""

    count: int
    columns: int
    rows: Tensor  # [count * K * columns] rows of the cache seen as [pages * K, page_size, D]
    masked: Tensor  # [count, 1, 1, L] bool: places that are not the sequence's, or behind its window
    wipe: Tensor | None  # [n] the same as rows of V seen as [count * K * L, D]; None on accelerators


@dataclass
class Decodes:
    """All groups. `order`: the sequences as the groups take them; `back` undoes it. None: as they are.

    `scratch`: where the pages of a group are gathered, in all layers, once the first of them has made it. New memory
    for each would be given back to the system in between, and cost a page fault for each 4 KiB."""

    groups: list[Group]
    order: Tensor | None = None
    back: Tensor | None = None
    scratch: tuple[Tensor, Tensor] | tuple[None, None] = (None, None)


def plan_decodes(batch: Batch, spec: AttentionSpec, keys: Tensor, count: int) -> Decodes:
    """For the first `count` sequences. keys: [pages, K, page_size, D] of any layer of the kind."""
    table, lengths = batch.page_table[spec.group, :count].long(), batch.seq_lens[:count].long()
    if keys.device.type != "cpu" or count <= HOST_GROUP:
        columns = table.shape[1] if keys.device.type != "cpu" else -(-int(lengths.max()) // keys.shape[2])
        return Decodes([_plan_group(table[:, :columns], lengths, spec, keys)])
    order = lengths.argsort(descending=True)
    groups = []
    for members in order.split(HOST_GROUP):  # type: ignore[no-untyped-call]
        columns = -(-int(lengths[members[0]]) // keys.shape[2])
        groups.append(_plan_group(table[members, :columns], lengths[members], spec, keys))
    return Decodes(groups, order, order.argsort())


def _plan_group(table: Tensor, lengths: Tensor, spec: AttentionSpec, keys: Tensor) -> Group:
    """table: [B, P], lengths: [B], both int64."""
    heads, size = keys.shape[1:3]
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
    return Group(len(lengths), columns, head_rows(table, heads), masked[:, None, None, :], wipe)


def head_rows(pages: Tensor, heads: int) -> Tensor:
    """pages: [B, C] -> [B * K * C] rows of the cache seen as [pages * K, ...], heads before columns."""
    head = torch.arange(heads, device=pages.device)[:, None]
    return (pages[:, None, :] * heads + head).flatten()


def softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """scores: [..., L] -> their weights, float32, over a sum that sinks, which have or broadcast to [..., 1], join."""
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32)
    more = sinks.expand(*scores.shape[:-1], 1)
    return torch.cat((scores.float(), more), -1).softmax(-1)[..., :-1]


def decode(
    q: Tensor, keys: Pages, values: Pages, work: Decodes, spec: AttentionSpec, sinks: Tensor | None = None
) -> Tensor:
    """q: [B, H, D], sinks: [H] -> [B, H, Dv]."""
    q = q * spec.scale
    if work.order is None or work.back is None:
        return _attend(q, keys, values, work.groups[0], spec, work.scratch, sinks)
    if work.scratch[0] is None:
        rows = max(len(group.rows) for group in work.groups)
        work.scratch = q.new_empty(rows, *cells(keys).shape[2:]), q.new_empty(rows, *cells(values).shape[2:])
    parts = q.index_select(0, work.order).split([g.count for g in work.groups])  # type: ignore[no-untyped-call]
    out = [_attend(q, keys, values, g, spec, work.scratch, sinks) for q, g in zip(parts, work.groups, strict=True)]
    return torch.cat(out).index_select(0, work.back)


def _attend(
    q: Tensor,
    keys: Pages,
    values: Pages,
    group: Group,
    spec: AttentionSpec,
    scratch: tuple[Tensor, Tensor] | tuple[None, None],
    sinks: Tensor | None,
) -> Tensor:
    """The query heads of one KV head are the rows of one product. q: [B, H, D], scaled -> [B, H, Dv]."""
    B, H, D = q.shape
    K, size = cells(keys).shape[1:3]
    L = group.columns * size
    k = gather(keys, group.rows, q.dtype, scratch[0]).view(B * K, L, D)
    v = gather(values, group.rows, q.dtype, scratch[1]).view(B * K, L, -1)
    scores = torch.bmm(q.reshape(B * K, H // K, D), k.transpose(1, 2)).view(B, K, H // K, L)
    if spec.softcap is not None:
        scores = torch.tanh(scores / spec.softcap) * spec.softcap
    # Masked places may hold NaN: filling the scores guards K; V is wiped, since 0 * NaN is NaN.
    each = None if sinks is None else sinks.view(K, H // K, 1)
    p = softmax(scores.masked_fill_(group.masked, -torch.inf), each).to(q.dtype)
    if group.wipe is None:
        v = v.view(B, K, L, -1).masked_fill(group.masked.transpose(2, 3), 0.0).view(B * K, L, -1)
    else:
        v.view(B * K * L, -1).index_fill_(0, group.wipe, 0.0)
    return torch.bmm(p.view(B * K, H // K, L), v).view(B, H, -1)
