"""Attention of a prefilling sequence: one call over the places that its tokens see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from anychip_sdk.contract import AttentionSpec, Batch
from anychip_sdk.kits.torch.decode import head_rows, softmax
from anychip_sdk.kits.torch.scaled import Pages, cells, gather

Segment = tuple[int, int, int, int]
"""A prefilling sequence: its row, its first token, its tokens in this step, its length with them."""


@dataclass
class Prefill:
    """What one prefilling sequence reads in every layer of one kind: places first..end of its pages, all written."""

    segment: Segment
    rows: Tensor  # [K * columns] rows of the cache seen as [pages * K, page_size, D]
    first: int
    end: int
    mask: Tensor | None  # [n, end - first] bool, True is seen; None: plainly causal, from the sequence's start


def plan_prefill(batch: Batch, spec: AttentionSpec, keys: Tensor, segment: Segment) -> Prefill:
    """keys: [pages, K, page_size, D] of any layer of the kind."""
    row, _, n, end = segment
    heads, size = keys.shape[1:3]
    start = end - n
    begin = 0 if spec.window is None else max(0, start - spec.window + 1)
    column = begin // size
    first = begin - column * size
    pages = batch.page_table[spec.group, row : row + 1, column : -(-end // size)].long()
    rows, last = head_rows(pages, heads), first + end - begin
    if start == 0 and (spec.window is None or n <= spec.window):
        return Prefill(segment, rows, first, last, None)
    position = torch.arange(start, end, device=keys.device)[:, None]
    place = torch.arange(begin, end, device=keys.device)
    mask = place <= position
    if spec.window is not None:
        mask &= place > position - spec.window
    return Prefill(segment, rows, first, last, mask)


def prefill(
    q: Tensor, keys: Pages, values: Pages, work: Prefill, spec: AttentionSpec, sinks: Tensor | None = None
) -> Tensor:
    """q: [n, H, D], sinks: [H] -> [n, H, Dv]."""
    K = cells(keys).shape[1]
    k, v = (
        gather(pages, work.rows, q.dtype).view(K, -1, cells(pages).shape[-1])[:, work.first : work.end]
        for pages in (keys, values)
    )
    heads = q.transpose(0, 1)  # [H, n, D]
    if spec.softcap is not None or sinks is not None:
        return _piecewise(heads, k, v, work, spec, sinks).transpose(0, 1)
    out = scaled_dot_product_attention(
        heads[None],
        k[None],
        v[None],
        attn_mask=work.mask,
        is_causal=work.mask is None,
        scale=spec.scale,
        enable_gqa=heads.shape[0] != K,
    )
    return out[0].transpose(0, 1)


def _piecewise(q: Tensor, k: Tensor, v: Tensor, work: Prefill, spec: AttentionSpec, sinks: Tensor | None) -> Tensor:
    """With softcaps and sinks, which torch's fused call does not have. q: [H, n, D] -> [H, n, Dv]."""
    H, n, D = q.shape
    grouped = q.reshape(k.shape[0], -1, n, D)  # [K, H / K, n, D]
    scores = (grouped * spec.scale) @ k[:, None].transpose(-1, -2)  # [K, H / K, n, L]
    if spec.softcap is not None:
        scores = torch.tanh(scores / spec.softcap) * spec.softcap
    seen = work.mask if work.mask is not None else torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    each = None if sinks is None else sinks.view(*grouped.shape[:2], 1, 1)
    p = softmax(scores.masked_fill(~seen, -torch.inf), each).to(q.dtype)
    return (p @ v[:, None]).reshape(H, n, v.shape[-1])
