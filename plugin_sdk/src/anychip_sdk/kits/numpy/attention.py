"""Ragged paged attention, one token and one head at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from anychip_sdk.contract import Attention, AttentionSpec, Batch, Layer
from anychip_sdk.kits.limits import refuse_wide_heads
from anychip_sdk.kits.numpy.allocator import KV
from anychip_sdk.kits.numpy.math import rms_norm, rotate
from anychip_sdk.kits.numpy.scaled import ScaledPages, cells, read
from anychip_sdk.kits.numpy.weights import Weight


class NumpyAttention(Attention):
    def supports(self, spec: AttentionSpec) -> None:
        refuse_wide_heads(spec)

    def write(self, k: np.ndarray, v: np.ndarray, kv: KV, batch: Batch, layer: Layer) -> KV:
        group = layer.attention.group
        for cache, new in zip(kv[group], (k, v), strict=True):
            page, offset = np.divmod(batch.slot_mapping[group], cells(cache).shape[2])  # [T] each
            if isinstance(cache, ScaledPages):
                cache.write(layer.kv_index, page, offset, new)
            else:
                cache[layer.kv_index, page, offset] = new
        return kv

    def attend(self, q: np.ndarray, kv: KV, batch: Batch, layer: Layer) -> np.ndarray:
        return self._attend(q, kv, batch, layer, None)

    def attend_with_sinks(self, q: np.ndarray, kv: KV, batch: Batch, layer: Layer, sinks: Weight) -> np.ndarray:
        return self._attend(q, kv, batch, layer, sinks.only("vector"))

    def _attend(self, q: np.ndarray, kv: KV, batch: Batch, layer: Layer, sinks: np.ndarray | None) -> np.ndarray:
        """sinks: [H]"""
        spec = layer.attention
        K, Dv = cells(kv[spec.group][1]).shape[3:]
        T, H, _ = q.shape
        out = np.zeros((T, H, Dv), q.dtype)  # stays zero for padding
        for seq in range(int(batch.counts[1])):
            pages = batch.page_table[spec.group, seq]  # [P]
            # [P * page_size, K, D] in the order of positions
            k, v = (read(cache, layer.kv_index, pages, q.dtype) for cache in kv[spec.group])
            for token in range(int(batch.query_start[seq]), int(batch.query_start[seq + 1])):
                end = int(batch.positions[token]) + 1
                start = 0 if spec.window is None else max(0, end - spec.window)
                for h in range(H):
                    head = h // (H // K)
                    sink = None if sinks is None else sinks[h]
                    out[token, h] = _one_query(q[token, h], k[start:end, head], v[start:end, head], spec, sink)
        return out.reshape(T, H * Dv)

    def prepare(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        kv: KV,
        batch: Batch,
        layer: Layer,
        *,
        angles: Any = None,
        q_norm: Weight | None = None,
        k_norm: Weight | None = None,
    ) -> tuple[np.ndarray, KV]:
        T, D = q.shape[0], layer.attention.head_dim
        H, K = q.shape[1] // D, k.shape[1] // D
        q, k, v = q.reshape(T, H, D), k.reshape(T, K, D), v.reshape(T, K, v.shape[1] // K)
        if q_norm is not None:
            q = rms_norm(q, q_norm, layer.attention.eps)
        if k_norm is not None:
            k = rms_norm(k, k_norm, layer.attention.eps)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, self.write(k, v, kv, batch, layer)


def _one_query(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, spec: AttentionSpec, sink: np.floating | None
) -> np.ndarray:
    """q: [D], and what it sees: k [N, D], v [N, Dv]. -> [Dv]"""
    scores = k @ q * spec.scale  # [N]
    if spec.softcap is not None:
        scores = spec.softcap * np.tanh(scores / spec.softcap)
    largest = scores.max() if sink is None else max(scores.max(), sink)
    weights = np.exp(scores - largest)
    total = weights.sum() if sink is None else weights.sum() + np.exp(sink - largest)
    y: np.ndarray = (weights / total) @ v
    return y
