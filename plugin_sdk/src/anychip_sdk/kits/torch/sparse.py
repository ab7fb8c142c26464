"""Attention of the decoding sequences on the host, in float32: a sparse product of queries and cached keys, and a
weighted sum of cached values. Both read the cache where it lies, and only places that a sequence sees."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from anychip_sdk.contract import AttentionSpec, Batch
from anychip_sdk.kits.torch.decode import softmax

GROUP = 16
"""Sequences that are attended together, longest with longest, so that little is padded."""


@dataclass
class Group:
    """What `count` sequences see in every layer of one kind, at most L places each. H query heads."""

    scores: Tensor  # [count * H, pages * K * page_size] CSR, L cells a row: where each query meets a key
    rows: Tensor  # [count * H * L] int32 rows of the cache seen as [pages * K * page_size, D]
    starts: Tensor  # [count * H] int32 where each row of `scores` starts
    masked: Tensor  # [count, 1, L] bool: places past the sequence's last, which repeat it


@dataclass
class SparseDecodes:
    """`order`: the sequences as the groups take them; `back` undoes it."""

    groups: list[Group]
    order: Tensor
    back: Tensor


def has_sparse(pages: Tensor, q: Tensor) -> bool:
    """Whether torch has these products for them."""
    return q.device.type == "cpu" and pages.dtype == q.dtype == torch.float32


def plan_sparse(batch: Batch, spec: AttentionSpec, keys: Tensor, count: int, heads: int) -> SparseDecodes:
    """For the first `count` sequences and `heads` query heads. keys: [pages, K, page_size, D] of any layer of the
    kind."""
    _warn_no_more()
    table, lengths = batch.page_table[spec.group, :count].long(), batch.seq_lens[:count].long()
    first = torch.zeros_like(lengths) if spec.window is None else (lengths - spec.window).clamp_min(0)
    order = (lengths - first).argsort(descending=True)
    parts = order.split(GROUP)  # type: ignore[no-untyped-call]
    groups = [_plan_group(table[m], first[m], lengths[m], keys, heads) for m in parts]
    return SparseDecodes(groups, order, order.argsort())


def _plan_group(table: Tensor, first: Tensor, lengths: Tensor, keys: Tensor, heads: int) -> Group:
    """table: [B, P], first and lengths: [B], all int64. The longest comes first."""
    pages, K, size, _ = keys.shape
    step = torch.arange(int(lengths[0] - first[0]), device=keys.device)  # [L]
    place = first[:, None] + step
    masked = place >= lengths[:, None]
    place = place.minimum(lengths[:, None] - 1).clamp_min_(0)  # [B, L]
    page = table.gather(1, place // size)
    head = torch.arange(heads, device=keys.device)[:, None] // (heads // K)  # [H, 1] its KV head
    rows = (page[:, None] * K + head) * size + (place % size)[:, None]  # [B, H, L]
    flat = rows.flatten().to(torch.int32)
    starts = torch.arange(0, len(flat) + 1, len(step), dtype=torch.int32, device=keys.device)
    scores = torch.sparse_csr_tensor(
        starts, flat, torch.zeros(len(flat)), (len(lengths) * heads, pages * K * size), check_invariants=False
    )
    return Group(scores, flat, starts[:-1], masked[:, None])


@cache
def _warn_no_more() -> None:
    """torch says once in a process that its CSR tensors are in beta, to whoever makes the first. Nothing else is kept
    from anybody."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        none = torch.empty(0, dtype=torch.int64)
        torch.sparse_csr_tensor(torch.tensor([0, 0]), none, torch.empty(0), (1, 1), check_invariants=False)


def decode_sparse(
    q: Tensor, keys: Tensor, values: Tensor, work: SparseDecodes, spec: AttentionSpec, sinks: Tensor | None
) -> Tensor:
    """q: [B, H, D], sinks: [H] -> [B, H, Dv]."""
    parts = q.index_select(0, work.order).split([len(g.masked) for g in work.groups])  # type: ignore[no-untyped-call]
    out = [_attend(part, keys, values, group, spec, sinks) for part, group in zip(parts, work.groups, strict=True)]
    return torch.cat(out).index_select(0, work.back)


def _attend(q: Tensor, keys: Tensor, values: Tensor, group: Group, spec: AttentionSpec, sinks: Tensor | None) -> Tensor:
    """q: [B, H, D], sinks: [H] -> [B, H, Dv]."""
    B, H, D = q.shape
    product = torch.sparse.sampled_addmm(
        group.scores, q.view(B * H, D), keys.view(-1, D).t(), beta=0.0, alpha=spec.scale, out=group.scores
    )
    scores = product.values().view(B, H, -1)
    if spec.softcap is not None:
        scores = torch.tanh(scores / spec.softcap) * spec.softcap
    p = softmax(scores.masked_fill_(group.masked, -torch.inf), None if sinks is None else sinks.view(H, 1))
    flat = values.view(-1, values.shape[-1])
    return embedding_bag(group.rows, flat, group.starts, mode="sum", per_sample_weights=p.flatten()).view(B, H, -1)
