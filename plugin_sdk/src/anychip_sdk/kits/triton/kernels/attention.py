"""Ragged paged attention: one source, compiled apart for decode (split over chunks of places) and for prefill.

A tile's rows are the query heads of one KV head, for one token (decode) or several (prefill): grouped-query attention
reads K and V once. Softmax is computed online (Dao et al., arXiv:2205.14135); decode's chunks are merged by their
log-sum-exp (flash decoding, Dao et al. 2023)."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from anychip_sdk.kits.triton.kernels.common import owner, tanh
from anychip_sdk.kits.triton.kernels.narrow import widen, widened

_VIEWS = ["table", "starts", "lengths", "counts", "ends", "decode_ends", "prefill_ends"]
"""Views of one buffer: their alignment differs from key to key and must not ask for another program."""


@triton.jit(do_not_specialize=["last", "window"], do_not_specialize_on_alignment=_VIEWS)
def plan_kernel(
    lengths: tl.tensor,
    starts: tl.tensor,
    counts: tl.tensor,
    decode_ends: tl.tensor,
    prefill_ends: tl.tensor,
    last: int,
    window: int,
    CHUNK: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The work of every sequence, summed up to it: chunks of places (decode), tiles of TOKENS tokens (prefill)."""
    i = tl.arange(0, BLOCK)
    live = i <= last
    seqs = tl.load(counts + 1)
    decodes = tl.load(counts + 3)
    length = tl.load(lengths + i, mask=live, other=0)
    seen = tl.maximum(length - window, 0)
    chunks = tl.where((i < decodes) & (length > 0), (length - 1) // CHUNK - seen // CHUNK + 1, 0)
    tl.store(decode_ends + i, tl.cumsum(chunks, axis=0), mask=live)
    new = tl.load(starts + i + 1, mask=live, other=0) - tl.load(starts + i, mask=live, other=0)
    tiles = tl.where((i >= decodes) & (i < seqs), (new + TOKENS - 1) // TOKENS, 0)
    tl.store(prefill_ends + i, tl.cumsum(tiles, axis=0), mask=live)


@triton.jit
def pages_of(pages: tl.tensor, start: int, end: int, PAGE: tl.constexpr, COLUMNS: tl.constexpr) -> Any:
    """[COLUMNS] int32: the page of each place from `start` on; 0 from `end` on."""
    n = start + tl.arange(0, COLUMNS)
    return tl.load(pages + n // PAGE, mask=n < end, other=0)


@triton.jit
def scales_of(scales: tl.tensor, place: tl.tensor, there: tl.tensor, MASKED: tl.constexpr) -> Any:
    return tl.load(scales + place, mask=there, other=0.0) if MASKED else tl.load(scales + place)


@triton.jit
def attend_block(
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    page: tl.tensor,
    position: tl.tensor,
    start: int,
    low: int,
    end: int,
    window: int,
    head: int,
    kv_heads: int,
    scale: float,
    softcap: float,
    out: tl.tensor,
    total: tl.tensor,
    best: tl.tensor,
    MASKED: tl.constexpr,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    PAGE: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> Any:
    """The COLUMNS places from `start` on, which lie in `page`, taken into the sums of `attend_tile`. Without MASKED
    every row sees all."""
    BLOCK_D: tl.constexpr = q.shape[1]
    BLOCK_DV: tl.constexpr = out.shape[1]
    d = tl.arange(0, BLOCK_D)
    dv = tl.arange(0, BLOCK_DV)
    n = start + tl.arange(0, COLUMNS)
    there = (n >= low) & (n < end)  # other places of the pages may hold NaN
    place = (page.to(tl.int64) * kv_heads + head) * PAGE + n % PAGE
    if MASKED or BLOCK_D != D:
        k = tl.load(keys + place[None, :] * D + d[:, None], mask=there[None, :] & (d[:, None] < D), other=0)
    else:
        k = tl.load(keys + place[None, :] * D + d[:, None])
    scores = tl.dot(q, widen(k, q.dtype), input_precision="ieee") * scale
    if key_scales is not None:
        scores *= widened(scales_of(key_scales, place, there, MASKED), k.dtype)[None, :]
    if CAPPED:
        scores = softcap * tanh(scores, q.dtype == tl.float32)
    if MASKED:
        visible = there[None, :] & (n[None, :] <= position[:, None])
        if WINDOWED:
            visible &= n[None, :] > position[:, None] - window
        scores = tl.where(visible, scores, -float("inf"))
    largest = tl.maximum(best, tl.max(scores, axis=1))
    base = tl.where(largest == -float("inf"), 0.0, largest)  # rows that have seen nothing yet
    p = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(best - base)
    if MASKED or BLOCK_DV != DV:
        v = tl.load(values + place[:, None] * DV + dv[None, :], mask=there[:, None] & (dv[None, :] < DV), other=0)
    else:
        v = tl.load(values + place[:, None] * DV + dv[None, :])
    total = total * shrink + tl.sum(p, axis=1)
    if value_scales is not None:
        p *= widened(scales_of(value_scales, place, there, MASKED), v.dtype)[None, :]
    out = tl.dot(p.to(q.dtype), widen(v, q.dtype), out * shrink[:, None], input_precision="ieee")
    return out, total, largest


@triton.jit
def attend_tile(
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    pages: tl.tensor,
    position: tl.tensor,
    begin: int,
    clear: int,
    low: int,
    end: int,
    window: int,
    head: int,
    kv_heads: int,
    scale: float,
    softcap: float,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    CLEAR: tl.constexpr,
    AHEAD: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    PAGE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_DV: tl.constexpr,
) -> Any:
    """q: [ROWS, BLOCK_D], whose row at `position` sees the places max(low, position - window + 1) to position, of
    those below `end`; with CLEAR, all rows see those from `begin` to `clear`. pages: this sequence's row of the page
    table. *_scales: None, or the scale of each vector of the pages. begin, clear: multiples of COLUMNS. scale, softcap:
    made for the base 2. AHEAD: where loads are pipelined; without a pipeline it would only take registers.
    -> sum of p * v [ROWS, BLOCK_DV], sum of p [ROWS], largest score [ROWS], all relative to it, to base 2."""
    best = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, BLOCK_DV], tl.float32)
    # AHEAD: a block's pages are looked up while the one before is worked on, or each would wait for memory twice.
    page = pages_of(pages, begin, end, PAGE, COLUMNS)
    if CLEAR:
        for start in range(begin, clear, COLUMNS):
            if AHEAD:
                ahead = pages_of(pages, start + COLUMNS, end, PAGE, COLUMNS)
            else:
                page = pages_of(pages, start, end, PAGE, COLUMNS)
            out, total, best = attend_block(
                q, keys, values, key_scales, value_scales, page, position, start, low, end, window, head, kv_heads,
                scale, softcap, out, total, best, False, WINDOWED, CAPPED, D, DV, PAGE, COLUMNS,
            )  # fmt: skip
            if AHEAD:
                page = ahead
        begin = clear
    for start in range(begin, end, COLUMNS):
        if AHEAD:
            ahead = pages_of(pages, start + COLUMNS, end, PAGE, COLUMNS)
        else:
            page = pages_of(pages, start, end, PAGE, COLUMNS)
        out, total, best = attend_block(
            q, keys, values, key_scales, value_scales, page, position, start, low, end, window, head, kv_heads,
            scale, softcap, out, total, best, True, WINDOWED, CAPPED, D, DV, PAGE, COLUMNS,
        )  # fmt: skip
        if AHEAD:
            page = ahead
    return out, total, best


@triton.jit
def sink_score(sinks: tl.tensor, head: tl.tensor) -> Any:
    """As scores are made for exp2."""
    return tl.load(sinks + head) * 1.4426950408889634  # log2 e


@triton.jit
def with_sink(out: tl.tensor, total: tl.tensor, best: tl.tensor, sink: tl.tensor) -> Any:
    """What `attend_tile` gives, -> the sums where each row has one more score, sink: [ROWS], without a value."""
    largest = tl.maximum(best, sink)
    shrink = tl.exp2(best - largest)
    return out * shrink[:, None], total * shrink + tl.exp2(sink - largest)


@triton.jit(do_not_specialize=["last", "rounds", "window", "table_stride"], do_not_specialize_on_alignment=_VIEWS)
def attention_kernel(
    q: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    key_scales: tl.tensor,
    value_scales: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,
    table: tl.tensor,
    ends: tl.tensor,
    starts: tl.tensor,
    lengths: tl.tensor,
    sinks: tl.tensor,
    table_stride: int,
    last: int,
    rounds: int,
    window: int,
    scale: float,
    softcap: float,
    SPLIT: tl.constexpr,
    CHUNK: tl.constexpr,
    TOKENS: tl.constexpr,
    GROUP: tl.constexpr,
    WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr,
    AHEAD: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    PAGE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
) -> None:
    """For one KV head (second grid axis), the pieces of work program_id(0), + num_programs(0), ... of `ends`.

    SPLIT: a piece is a chunk of one decoding sequence; out: [pieces, H, DV] float32 and lse: [pieces, H] take the
    partial results. Otherwise it is TOKENS tokens of a prefilling one, and out: [T, H, DV] takes the results. sinks:
    None, or [H] float32; decode's come in when its chunks are merged, since each counts once."""
    head = tl.program_id(1)
    kv_heads = tl.num_programs(1)
    row = tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    dv = tl.arange(0, BLOCK_DV)
    h = head * GROUP + row % GROUP
    pieces = tl.load(ends + last)
    for turn in range(tl.program_id(0), pieces, tl.num_programs(0)):
        piece = turn if SPLIT else pieces - 1 - turn  # late tiles of a sequence have most to read: they come first
        seq = owner(ends, last, piece, rounds)
        local = piece - tl.load(ends + seq - 1, mask=seq > 0, other=0)
        length = tl.load(lengths + seq)
        start = tl.load(starts + seq)
        new = tl.load(starts + seq + 1) - start
        token = local * TOKENS + row // GROUP  # of this sequence's new ones
        if SPLIT:
            token = row // GROUP
            low = tl.maximum(length - window, 0)
            begin = (low // CHUNK + local) * CHUNK
            clear = begin
            end = tl.minimum(begin + CHUNK, length)
        else:
            first = length - new + local * TOKENS
            low = tl.maximum(first - window + 1, 0)
            begin = low // COLUMNS * COLUMNS
            clear = (first + 1) // COLUMNS * COLUMNS
            end = tl.minimum(first + TOKENS, length)
        live = (row < TOKENS * GROUP) & (token < new)
        line = (start + token).to(tl.int64) * (kv_heads * GROUP) + h
        x = tl.load(q + line[:, None] * D + d[None, :], mask=live[:, None] & (d[None, :] < D), other=0.0)
        acc, total, best = attend_tile(
            x, keys, values, key_scales, value_scales, table + seq.to(tl.int64) * table_stride,
            length - new + token, begin, clear, low, end, window, head, kv_heads, scale, softcap, WINDOWED, CAPPED,
            AHEAD and not SPLIT and not WINDOWED, AHEAD, D, DV, PAGE, ROWS, COLUMNS, BLOCK_DV,
        )  # fmt: skip
        if sinks is not None:
            acc, total = with_sink(acc, total, best, sink_score(sinks, h))
        total = tl.where(total == 0.0, 1.0, total)  # rows of nobody
        y = tl.div_rn(acc, tl.broadcast_to(total[:, None], acc.shape))
        if SPLIT:
            line = tl.zeros([ROWS], tl.int64) + piece
            line = line * (kv_heads * GROUP) + h
            tl.store(lse + line, best + tl.log2(total), mask=live)
        tl.store(out + line[:, None] * DV + dv[None, :], y.to(out.dtype.element_ty),
                 mask=live[:, None] & (dv[None, :] < DV))  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=_VIEWS)
def merge_kernel(
    partial: tl.tensor,
    lse: tl.tensor,
    out: tl.tensor,
    ends: tl.tensor,
    sinks: tl.tensor,
    PADDED: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_DV: tl.constexpr,
) -> None:
    """One head of one sequence that decodes, whose token has the sequence's own number: its chunks' results, weighted
    by their log-sum-exp, 16 at a time. With one chunk and without a sink the weight is exactly 1. sinks: None, or [H]
    float32: a result of zeros beside them. PADDED: a sequence without a chunk is padding, and gets zeros."""
    seq = tl.program_id(0)
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    dv = tl.arange(0, BLOCK_DV)
    first = tl.load(ends + seq - 1, mask=seq > 0, other=0)
    end = tl.load(ends + seq)
    best = -float("inf")
    total = 0.0
    if sinks is not None:
        best = sink_score(sinks, head)
        total = 1.0
    acc = tl.zeros([BLOCK_DV], tl.float32)
    for piece in range(first, end, 16):
        i = piece + tl.arange(0, 16)
        line = i.to(tl.int64) * heads + head
        x = tl.load(lse + line, mask=i < end, other=-float("inf"))
        live = (i < end)[:, None] & (dv < DV)[None, :]
        y = tl.load(partial + line[:, None] * DV + dv[None, :], mask=live, other=0.0)
        largest = tl.maximum(best, tl.max(x, axis=0))
        weight = tl.exp2(x - largest)
        shrink = tl.exp2(best - largest)
        total = total * shrink + tl.sum(weight, axis=0)
        acc = acc * shrink + tl.sum(y * weight[:, None], axis=0)
        best = largest
    line = seq.to(tl.int64) * heads + head
    y = tl.div_rn(acc, tl.full(acc.shape, 1.0, tl.float32) * tl.where(total == 0.0, 1.0, total))
    tl.store(out + line * DV + dv, y.to(out.dtype.element_ty), mask=(dv < DV) & (PADDED or end > first))
