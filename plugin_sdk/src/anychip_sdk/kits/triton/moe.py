"""Mixture of experts on the grouped GEMM. Nothing is looked at on the host, so a captured step serves any routing."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from anychip_sdk.contract import MoESpec
from anychip_sdk.kits.torch.weights import Weight
from anychip_sdk.kits.triton.kernels.activation import gated_activation
from anychip_sdk.kits.triton.kernels.common import search_rounds
from anychip_sdk.kits.triton.kernels.moe import combine_kernel, grouped_matmul_kernel, route_kernel
from anychip_sdk.kits.triton.launch import Launcher
from anychip_sdk.kits.triton.tiles import FEW_TOKENS, Tile, Tiles

BLOCK = 1024


def experts(
    launch: Launcher,
    tiles: Tiles,
    x: Tensor,
    scores: Tensor,
    gate_up: Weight,
    down: Weight,
    spec: MoESpec,
    counts: Tensor,
) -> Tensor:
    """x: [T, E], scores of the router: [T, experts], counts[0]: how many of the tokens are real -> [T, E], this
    rank's part of the sum; zeros for padding."""
    T, size = x.shape
    x, scores = x.contiguous(), scores.contiguous()
    weights = torch.empty(T, spec.top_k, dtype=torch.float32, device=x.device)
    chosen = torch.empty(T, spec.top_k, dtype=torch.int32, device=x.device)
    launch(
        route_kernel, (T,), scores, weights, chosen, counts, EXPERTS=spec.experts, TOP_K=spec.top_k,
        RENORMALIZE=spec.renormalize, BLOCK=triton.next_power_of_2(spec.experts),
        BLOCK_K=triton.next_power_of_2(spec.top_k),
    )  # fmt: skip
    by_expert, order = chosen.flatten().sort(stable=True)
    which = torch.arange(spec.experts, dtype=torch.int32, device=x.device)
    ends = torch.searchsorted(by_expert, which, right=True, out_int32=True)  # [experts] picks up to each
    tile = (tiles.experts_few if T <= FEW_TOKENS else tiles.experts_many)[x.itemsize]
    tile_ends = _tile_ends(ends, tile)
    hidden = grouped_matmul(launch, x, gate_up.tensor, order, ends, tile_ends, tile, spec.top_k)
    gate, up = torch.split_with_sizes(hidden, gate_up.sizes, -1)
    active = gated_activation(launch, gate, up, spec.activation)
    picked = grouped_matmul(launch, active, down.tensor, order, ends, tile_ends, tile, 1)
    y = torch.empty_like(x)
    grid = (T, triton.cdiv(size, BLOCK))
    launch(combine_kernel, grid, picked, weights, y, counts, size, TOP_K=spec.top_k, BLOCK=BLOCK)
    return y


def _tile_ends(ends: Tensor, tile: Tile) -> Tensor:
    """[experts] tiles of `tile.rows` picks, summed up to each expert."""
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    return ((counts + (tile.rows - 1)) // tile.rows).cumsum(0, dtype=torch.int32)


def grouped_matmul(
    launch: Launcher, x: Tensor, w: Tensor, order: Tensor, ends: Tensor, tile_ends: Tensor, tile: Tile, share: int
) -> Tensor:
    """x: [picks / share, I], w: [experts, O, I], order: [picks] sorted by expert, ends and tile_ends: [experts]
    -> [picks, O], row p = x[p // share] @ w[expert of p].T; rows of picks of nobody are left as they were."""
    count, O, I = w.shape  # noqa: E741
    y = torch.empty(len(order), O, dtype=x.dtype, device=x.device)
    most = triton.cdiv(len(order), tile.rows) + min(count, len(order))
    launch(
        grouped_matmul_kernel, (most, triton.cdiv(O, tile.columns)), x, w, y, order, ends, tile_ends,
        count - 1, search_rounds(count), x.stride(0), O=O, I=I, SHARE=share, ROWS=tile.rows, COLUMNS=tile.columns,
        DEPTH=tile.depth, warps=tile.warps, stages=tile.stages,
    )  # fmt: skip
    return y
