"""Ragged paged attention, one sequence and one head at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from anychip_sdk.contract import Attention, Batch, Layer
from anychip_sdk.kits.numpy.math import Weight, rms_norm, rotate

KV = list[tuple[np.ndarray, np.ndarray]]
"""Per group: K [layers, pages, page_size, K, D] and V [layers, pages, page_size, K, Dv]."""


class NumpyAttention(Attention):
    def write(self, k: np.ndarray, v: np.ndarray, kv: KV, batch: Batch, layer: Layer) -> KV:
        group = layer.attention.group
        where = batch.slot_mapping[group]  # [T] page * page_size + offset
        for cache, new in zip(kv[group], (k, v), strict=True):
            of_layer = cache[layer.kv_index]  # [pages, page_size, K, D]
            of_layer.reshape(-1, *of_layer.shape[2:])[where] = new
        return kv

    def attend(self, q: np.ndarray, kv: KV, batch: Batch, layer: Layer) -> np.ndarray:
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])  # [pages, page_size, K, D]
        T, H = q.shape[:2]
        out = np.zeros((T, H, values.shape[-1]), q.dtype)
        per_kv_head = H // keys.shape[2]
        for seq in range(int(batch.counts[1])):
            length = int(batch.seq_lens[seq])
            pages = batch.page_table[spec.group, seq]  # [P]
            k = keys[pages].reshape(-1, *keys.shape[2:])[:length]  # [N, K, D]
            v = values[pages].reshape(-1, *values.shape[2:])[:length]
            for token in range(int(batch.query_start[seq]), int(batch.query_start[seq + 1])):
                last = int(batch.positions[token]) + 1
                first = 0 if spec.window is None else max(0, last - spec.window)
                for h in range(H):
                    scores = k[first:last, h // per_kv_head] @ q[token, h] * spec.scale  # [last - first]
                    if spec.softcap is not None:
                        scores = spec.softcap * np.tanh(scores / spec.softcap)
                    p = np.exp(scores - scores.max())
                    out[token, h] = (p / p.sum()) @ v[first:last, h // per_kv_head]
        return out.reshape(T, -1)

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
        q, k = q.reshape(T, -1, D), k.reshape(T, -1, D)
        v = v.reshape(T, k.shape[1], -1)
        if q_norm is not None:
            q = rms_norm(q, q_norm, layer.attention.eps)
        if k_norm is not None:
            k = rms_norm(k, k_norm, layer.attention.eps)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, self.write(k, v, kv, batch, layer)
