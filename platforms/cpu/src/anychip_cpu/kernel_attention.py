"""Attention on kernels of our own, on the pages as they lie: decode split over chunks of places, prefill in tiles."""

from __future__ import annotations

from ctypes import byref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anychip_sdk.contract import AttentionSpec, Batch, Layer
from anychip_sdk.kits.torch.allocator import KV
from anychip_sdk.kits.torch.attention import Static, TorchAttention
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.native import DECODE_CHUNK, GROUP_MAX, PREFILL_ROWS, AttentionWork, Kernels, PrepareWork


@dataclass
class Plan:
    """One kernel's work in every layer of a kind; `held` are the arrays that `work` points to."""

    work: AttentionWork
    held: tuple[np.ndarray | Tensor, ...]


class KernelAttention(TorchAttention):
    """In float32. Other dtypes, and more than GROUP_MAX query heads to a KV head, run on the torch kit."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def begin(self, batch: Batch) -> Batch:
        batch = super().begin(batch)
        batch.plan = {**batch.plan, "kernels": {}}
        return batch

    def attend(self, q: Tensor, kv: KV, batch: Batch, layer: Layer) -> Tensor:
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])
        T, H = q.shape[:2]
        if not self._serves(q, keys, H):
            return super().attend(q, kv, batch, layer)
        plans = batch.plan["kernels"]
        plan = plans.get((spec.group, spec.window))
        if plan is None:
            plan = plans[spec.group, spec.window] = self._plans(batch, spec, q, keys, values)
        out = torch.empty(T, H, values.shape[-1])
        static: Static = batch.key.static  # type: ignore[assignment]  # what `plan` returned
        if static[0] + sum(n for _, _, n, _ in static[1]) < T:
            out.zero_()  # padding
        q = q.contiguous()
        for kernel, part in plan:
            work = part.work
            work.q, work.out = q.data_ptr(), out.data_ptr()
            work.keys, work.values = keys.data_ptr(), values.data_ptr()
            kernel(byref(work), torch.get_num_threads())
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
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])
        heads = q.shape[1] // spec.head_dim
        if not self._serves(q, keys, heads):
            return super().prepare(q, k, v, kv, batch, layer, angles=angles, q_norm=q_norm, k_norm=k_norm)
        q, k, v = (x if x.stride(1) == 1 else x.contiguous() for x in (q, k, v))
        cosine, sine = (None, None) if angles is None else angles
        slots = batch.slot_mapping[spec.group]
        out = torch.empty(q.shape[0], heads, spec.head_dim)
        norms = (None if w is None else w.tensor for w in (q_norm, k_norm))
        work = PrepareWork(
            *(None if x is None else x.data_ptr() for x in (q, k, v, out, keys, values, slots, cosine, sine, *norms)),
            *(q.stride(0), k.stride(0), v.stride(0), q.shape[0], heads),
            *(keys.shape[1], spec.head_dim, values.shape[-1], keys.shape[2], spec.eps),
        )
        self._kernels.prepare_f32(byref(work), torch.get_num_threads())
        return out, kv

    @staticmethod
    def _serves(q: Tensor, keys: Tensor, heads: int) -> bool:
        return q.dtype == keys.dtype == torch.float32 and heads <= GROUP_MAX * keys.shape[1]

    def _plans(
        self, batch: Batch, spec: AttentionSpec, q: Tensor, keys: Tensor, values: Tensor
    ) -> list[tuple[Any, Plan]]:
        """q: [T, H, D], keys and values: [pages, K, page_size, .] of any layer of the kind."""
        static: Static = batch.key.static  # type: ignore[assignment]  # what `plan` returned
        decodes, sequences = static[0], static[0] + len(static[1])
        H, K = q.shape[1], keys.shape[1]
        lengths, starts = batch.seq_lens.numpy(), batch.query_start.numpy()
        table = batch.page_table[spec.group]
        plans = []
        if decodes:
            seen = np.maximum(0, lengths[:decodes] - spec.window) if spec.window is not None else 0
            first = (seen // DECODE_CHUNK + np.zeros(decodes, np.int32)).astype(np.int32)
            tasks = -(-lengths[:decodes] // DECODE_CHUNK) - first
            scratch = torch.empty(int(tasks.sum()) * H * (values.shape[-1] + 2))
            work = self._work(spec, q, keys, values, table[:decodes], (lengths, starts), tasks, scratch)
            work.work.first_chunk = first.ctypes.data
            plans.append((self._kernels.decode_f32, Plan(work.work, (*work.held, first))))
        if sequences > decodes:
            tasks = -(-np.diff(starts[decodes : sequences + 1]) // (PREFILL_ROWS // (H // K)))
            v = -(-values.shape[-1] // 32) * 32
            floats = PREFILL_ROWS * (q.shape[2] + v + 66) + 64 * (q.shape[2] + v)
            scratch = torch.empty(torch.get_num_threads() * floats)
            rows = slice(decodes, sequences)
            ragged = (lengths[rows], starts[decodes:])
            work = self._work(spec, q, keys, values, table[rows], ragged, tasks, scratch)
            work.work.scratch_stride = floats
            plans.append((self._kernels.prefill_f32, work))
        return plans

    @staticmethod
    def _work(
        spec: AttentionSpec,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        table: Tensor,
        ragged: tuple[np.ndarray, np.ndarray],
        tasks: np.ndarray,
        scratch: Tensor,
    ) -> Plan:
        """table: [S, P], ragged: lengths [S] and starts [S + 1], tasks: [S] of each sequence."""
        first = np.zeros(len(tasks) + 1, np.int32)
        tasks.cumsum(out=first[1:])
        sequence = np.arange(len(tasks), dtype=np.int32).repeat(tasks)
        lengths, starts = ragged
        work = AttentionWork(
            *(None, None, None, None, scratch.data_ptr(), table.data_ptr(), lengths.ctypes.data, starts.ctypes.data),
            *(first.ctypes.data, sequence.ctypes.data, None),
            *(len(tasks), q.shape[1], keys.shape[1], q.shape[2], values.shape[-1], keys.shape[2], table.stride(0)),
            *(spec.window or 0, 0, spec.scale, spec.softcap or 0.0),
        )
        return Plan(work, (scratch, table, lengths, starts, first, sequence))
