"""Ragged paged attention on Triton kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from anychip_sdk.contract import AttentionSpec, Batch, Layer
from anychip_sdk.kits.torch.allocator import KV
from anychip_sdk.kits.torch.attention import TorchAttention
from anychip_sdk.kits.torch.scaled import Pages, cells
from anychip_sdk.kits.torch.weights import Weight
from anychip_sdk.kits.triton.kernels.attention import attention_kernel, merge_kernel, plan_kernel
from anychip_sdk.kits.triton.kernels.common import search_rounds
from anychip_sdk.kits.triton.kernels.narrow import numbers_of
from anychip_sdk.kits.triton.kernels.prepare import prepare
from anychip_sdk.kits.triton.launch import Launcher
from anychip_sdk.kits.triton.tiles import Tile, Tiles, attention_tile, head_block, widened_tile

LOG2_E = 1.4426950408889634
NO_WINDOW = 2**30
"""More places than a sequence can have."""


class Static(NamedTuple):
    """What of a batch chooses the launches: whether sequences decode, whether others prefill, and whether tokens of
    padding follow."""

    decodes: bool
    prefills: bool
    padded: bool


@dataclass(frozen=True)
class Work:
    """Pieces of work of every sequence, summed up to it. Both [B] int32."""

    decode_ends: Tensor
    prefill_ends: Tensor


@dataclass(frozen=True)
class Shape:
    """What the launches of one layer share. tokens: of one prefill tile."""

    decode: Tile
    prefill: Tile
    rows: int
    tokens: int


def exponents(spec: AttentionSpec) -> tuple[float, float]:
    """What scores are multiplied by so that exp2 takes them, and by what again after tanh where they are capped."""
    if spec.softcap is None:
        return spec.scale * LOG2_E, 0.0
    return spec.scale / spec.softcap, spec.softcap * LOG2_E


class TritonAttention(TorchAttention):
    """In float32, bfloat16 and float16, with K and V in any of them, in int8 or in fp8; the dots take q's dtype. A
    batch's key says whether sequences decode and prefill, and nothing about lengths: pieces of work are found on the
    device, so a captured step serves every batch of its bucket."""

    def __init__(self, launch: Launcher, tiles: Tiles) -> None:
        self._launch, self._tiles = launch, tiles

    def plan(self, host: Batch) -> Static:  # type: ignore[override]  # another kind of Hashable than the kit's
        bucket = host.key.bucket
        if bucket.decode:  # one program for the bucket, however many sequences of it are real
            return Static(True, False, True)
        tokens, seqs, _, decodes = host.counts.tolist()
        return Static(decodes > 0, seqs > decodes, tokens < bucket.tokens)

    def begin(self, batch: Batch) -> Batch:
        batch.plan = {**batch.plan, "work": {}}
        return batch

    def write(self, k: Tensor, v: Tensor, kv: KV, batch: Batch, layer: Layer) -> KV:
        group = layer.attention.group
        keys, values = (cache[layer.kv_index] for cache in kv[group])
        prepare(self._launch, None, k.flatten(1), v.flatten(1), keys, values, batch.slot_mapping[group])
        return kv

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
        weights = (None if w is None else w.tensor for w in (q_norm, k_norm))
        q_weight, k_weight = weights
        out = prepare(
            self._launch, q, k, v, keys, values, batch.slot_mapping[spec.group],
            angles=angles, q_weight=q_weight, k_weight=k_weight, eps=spec.eps,
        )  # fmt: skip
        assert out is not None
        return out, kv

    def attend(self, q: Tensor, kv: KV, batch: Batch, layer: Layer) -> Tensor:
        return self._attend(q, kv, batch, layer, None)

    def attend_with_sinks(self, q: Tensor, kv: KV, batch: Batch, layer: Layer, sinks: Weight) -> Tensor:
        return self._attend(q, kv, batch, layer, sinks.tensor)

    def _attend(self, q: Tensor, kv: KV, batch: Batch, layer: Layer, sinks: Tensor | None) -> Tensor:
        spec, q = layer.attention, q.contiguous()
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])
        T, H, _ = q.shape
        static: Static = batch.key.static  # type: ignore[assignment]  # what `plan` returned
        filled = static.decodes and not static.prefills and len(batch.seq_lens) == T  # by the merge, padding included
        make = torch.zeros if static.padded and not filled else torch.empty
        width = cells(values).shape[-1]
        out = make(T, H, width, dtype=q.dtype, device=q.device)
        if T == 0:
            return out.view(0, H * width)
        shape = self._shape(q, cells(keys))
        work = self._work(batch, spec, shape)
        if static.decodes:
            self._decode(q, keys, values, out, batch, spec, shape, work, sinks)
        if static.prefills:
            pieces = triton.cdiv(T, shape.tokens) + len(batch.seq_lens)
            self._run(q, keys, values, out, None, batch, spec, shape, work.prefill_ends, pieces, sinks)
        return out.view(T, -1)

    def _shape(self, q: Tensor, keys: Tensor) -> Shape:
        D, group = q.shape[2], q.shape[1] // keys.shape[1]
        rows = max(16, triton.next_power_of_2(group))
        decode = attention_tile(self._tiles.decode, q.itemsize, D)
        prefill = attention_tile(self._tiles.prefill, q.itemsize, D)
        return Shape(decode, prefill, rows, max(1, prefill.rows // group))

    def _work(self, batch: Batch, spec: AttentionSpec, shape: Shape) -> Work:
        """Made when the first layer of a kind asks, and shared by the others."""
        plans: dict[tuple[int | None, int], Work] = batch.plan["work"]
        work = plans.get((spec.window, shape.tokens))
        if work is None:
            ends = torch.empty(2, len(batch.seq_lens), dtype=torch.int32, device=batch.seq_lens.device)
            work = plans[spec.window, shape.tokens] = Work(ends[0], ends[1])
            block = triton.next_power_of_2(len(batch.seq_lens))
            self._launch(
                plan_kernel, (1,), batch.seq_lens, batch.query_start, batch.counts, *ends, len(batch.seq_lens) - 1,
                spec.window or NO_WINDOW, CHUNK=self._tiles.chunk, TOKENS=shape.tokens, BLOCK=block,
            )  # fmt: skip
        return work

    def _decode(
        self,
        q: Tensor,
        keys: Pages,
        values: Pages,
        out: Tensor,
        batch: Batch,
        spec: AttentionSpec,
        shape: Shape,
        work: Work,
        sinks: Tensor | None,
    ) -> None:
        H, B, chunk = q.shape[1], len(batch.seq_lens), self._tiles.chunk
        most = triton.cdiv(batch.page_table.shape[2] * cells(keys).shape[2], chunk)  # chunks of one sequence
        width = cells(values).shape[-1]
        if spec.window is not None:
            most = min(most, (spec.window - 1) // chunk + 2)
        partial = torch.empty(B * most, H, width, dtype=torch.float32, device=q.device)
        lse = torch.empty(B * most, H, dtype=torch.float32, device=q.device)
        pieces = min(B * most, self._tiles.programs)
        self._run(q, keys, values, partial, lse, batch, spec, shape, work.decode_ends, pieces, None)
        self._launch(
            merge_kernel, (B, H), partial, lse, out, work.decode_ends, sinks, PADDED=len(out) == B,
            DV=width, BLOCK_DV=head_block(width),
        )  # fmt: skip

    def _run(
        self,
        q: Tensor,
        keys: Pages,
        values: Pages,
        out: Tensor,
        lse: Tensor | None,
        batch: Batch,
        spec: AttentionSpec,
        shape: Shape,
        ends: Tensor,
        pieces: int,
        sinks: Tensor | None,
    ) -> None:
        """lse: of the partial results of decode; None for prefill."""
        split = lse is not None
        (k, k_scales), (v, v_scales) = numbers_of(keys), numbers_of(values)
        tile = shape.decode if split else shape.prefill
        if k_scales is not None:
            tile = widened_tile(tile, q.itemsize)
        K, D, DV = k.shape[1], q.shape[2], v.shape[-1]
        group = q.shape[1] // K
        table = batch.page_table[spec.group]
        self._launch(
            attention_kernel, (pieces, K), q, k, v, k_scales, v_scales, out, lse, table, ends, batch.query_start,
            batch.seq_lens, sinks, table.stride(0), len(ends) - 1, search_rounds(len(ends)), spec.window or NO_WINDOW,
            *exponents(spec),
            SPLIT=split, CHUNK=self._tiles.chunk, TOKENS=1 if split else shape.tokens, GROUP=group,
            WINDOWED=spec.window is not None, CAPPED=spec.softcap is not None, AHEAD=tile.stages > 1, D=D, DV=DV,
            PAGE=k.shape[2], ROWS=shape.rows if split else max(16, triton.next_power_of_2(shape.tokens * group)),
            COLUMNS=tile.columns, BLOCK_D=head_block(D), BLOCK_DV=head_block(DV), warps=tile.warps, stages=tile.stages,
        )  # fmt: skip
