"""Mixture of experts: routing, one grouped GEMM over tokens sorted by expert, and the weighted sum."""

from __future__ import annotations

import triton
import triton.language as tl

from anychip_sdk.kits.triton.kernels.common import owner


@triton.jit(do_not_specialize_on_alignment=["counts"])
def route_kernel(
    scores: tl.tensor,
    weights: tl.tensor,
    chosen: tl.tensor,
    counts: tl.tensor,
    EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """One token: the TOP_K likeliest of EXPERTS, the lower one on ties. A token of padding takes expert EXPERTS,
    which is nobody."""
    token = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    j = tl.arange(0, BLOCK_K)
    x = tl.load(scores + token.to(tl.int64) * EXPERTS + i, mask=i < EXPERTS, other=-float("inf")).to(tl.float32)
    p = tl.exp(x - tl.max(x, axis=0))
    p = tl.where(i < EXPERTS, p / tl.sum(p, axis=0), -1.0)
    weight = tl.zeros([BLOCK_K], tl.float32)
    expert = tl.full([BLOCK_K], EXPERTS, tl.int32)
    for k in range(TOP_K):
        best = tl.max(p, axis=0)
        first = tl.min(tl.where(p == best, i, EXPERTS - 1), axis=0)  # NaN equals nothing: any expert will do
        weight = tl.where(j == k, best, weight)
        expert = tl.where(j == k, first, expert)
        p = tl.where(i == first, -1.0, p)
    if RENORMALIZE:
        weight /= tl.sum(weight, axis=0)
    expert = tl.where(token < tl.load(counts), expert, EXPERTS)
    tl.store(weights + token * TOP_K + j, weight, mask=j < TOP_K)
    tl.store(chosen + token * TOP_K + j, expert, mask=j < TOP_K)


@triton.jit
def grouped_matmul_kernel(
    x: tl.tensor,
    w: tl.tensor,
    y: tl.tensor,
    order: tl.tensor,
    ends: tl.tensor,
    tile_ends: tl.tensor,
    last: int,
    rounds: int,
    x_stride: int,
    O: tl.constexpr,  # noqa: E741 - outputs, as elsewhere
    I: tl.constexpr,  # noqa: E741
    SHARE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """ROWS of the picks sorted by expert, all of one expert, times COLUMNS of its weight. w: [experts, O, I].
    order: the picks, sorted; pick p reads row p // SHARE of x and writes row p of y [picks, O]. ends: [experts]
    picks up to and with each expert; tile_ends: likewise tiles."""
    tile = tl.program_id(0)
    if tile < tl.load(tile_ends + last):
        expert = owner(tile_ends, last, tile, rounds)
        before = expert > 0
        local = tile - tl.load(tile_ends + expert - 1, mask=before, other=0)
        row = tl.load(ends + expert - 1, mask=before, other=0) + local * ROWS + tl.arange(0, ROWS)
        live = row < tl.load(ends + expert)
        pick = tl.load(order + row, mask=live, other=0).to(tl.int64)
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        depth = tl.arange(0, DEPTH)
        weight = w + expert.to(tl.int64) * (O * I)
        acc = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, I, DEPTH):
            i = start + depth
            a = tl.load(x + (pick // SHARE)[:, None] * x_stride + i[None, :],
                        mask=live[:, None] & (i[None, :] < I), other=0.0)  # fmt: skip
            b = tl.load(weight + column[None, :] * I + i[:, None],
                        mask=(column[None, :] < O) & (i[:, None] < I), other=0.0)  # fmt: skip
            acc = tl.dot(a, b, acc, input_precision="ieee")
        tl.store(y + pick[:, None] * O + column[None, :], acc.to(y.dtype.element_ty),
                 mask=live[:, None] & (column[None, :] < O))  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=["counts"])
def combine_kernel(
    x: tl.tensor,
    weights: tl.tensor,
    y: tl.tensor,
    counts: tl.tensor,
    size: int,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """BLOCK values of one token: the sum of its TOP_K rows of x times their weights; zeros for padding."""
    token = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = (i < size) & (token < tl.load(counts))
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(TOP_K):
        row = token * TOP_K + k
        acc += tl.load(weights + row) * tl.load(x + row * size + i, mask=live, other=0.0).to(tl.float32)
    tl.store(y + token * size + i, tl.where(live, acc, 0.0).to(y.dtype.element_ty), mask=i < size)
