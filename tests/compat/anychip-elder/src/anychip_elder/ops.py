"""Ops and attention, plainly."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from anychip_sdk.contract import Activation, Attention, AttentionSpec, Batch, Layer, MoESpec, NotSupported, Ops, Sampled

from anychip_elder.sampling import sample_rows


@dataclass(frozen=True)
class Parts:
    arrays: tuple[Any, ...]
    bias: tuple[Any, ...] = ()


class ElderAttention(Attention):
    def supports(self, spec: AttentionSpec) -> None:
        if spec.window is not None or spec.softcap is not None or spec.head_dim > 256:
            raise NotSupported("elder has no windows, no softcaps and heads of at most 256")

    def write(self, k: Any, v: Any, kv: Any, batch: Batch, layer: Layer) -> Any:
        for cache, new in zip(kv[layer.attention.group], (k, v), strict=True):
            page, offset = np.divmod(batch.slot_mapping[layer.attention.group], cache.shape[2])
            cache[layer.kv_index, page, offset] = new
        return kv

    def attend(self, q: Any, kv: Any, batch: Batch, layer: Layer) -> Any:
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])  # [pages, page_size, K, D]
        out = np.zeros((*q.shape[:2], values.shape[-1]), q.dtype)
        ratio = q.shape[1] // keys.shape[2]
        for s in range(int(batch.counts[1])):
            pages = batch.page_table[spec.group, s]
            k, v = (cache[pages].reshape(-1, *cache.shape[2:]) for cache in (keys, values))
            for t in range(int(batch.query_start[s]), int(batch.query_start[s + 1])):
                seen = slice(int(batch.positions[t]) + 1)
                for h in range(q.shape[1]):
                    scores = k[seen, h // ratio] @ q[t, h] * np.float32(spec.scale)
                    p = np.exp(scores - scores.max())
                    out[t, h] = p / p.sum() @ v[seen, h // ratio]
        return out.reshape(len(q), -1)

    def prepare(
        self,
        q: Any,
        k: Any,
        v: Any,
        kv: Any,
        batch: Batch,
        layer: Layer,
        *,
        angles: Any = None,
        q_norm: Any = None,
        k_norm: Any = None,
    ) -> tuple[Any, Any]:
        q, k = (x.reshape(len(x), -1, layer.attention.head_dim) for x in (q, k))
        q, k = (x if w is None else norm(x, w, layer.attention.eps) for x, w in ((q, q_norm), (k, k_norm)))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, self.write(k, v.reshape(len(v), k.shape[1], -1), kv, batch, layer)


class ElderOps(Ops):
    def __init__(self) -> None:
        self.attention = ElderAttention()

    def embedding(self, ids: Any, w: Parts, scale: float = 1.0) -> Any:
        return w.arrays[0][ids] * np.float32(scale)

    def take(self, x: Any, rows: Any) -> Any:
        return x[rows]

    def zeros_like(self, x: Any) -> Any:
        return np.zeros_like(x)

    def linear(self, x: Any, w: Parts) -> Any:
        return np.concatenate(self.linear_split(x, w), axis=-1)

    def linear_split(self, x: Any, w: Parts) -> tuple[Any, ...]:
        products = tuple(x @ part.T for part in w.arrays)
        return tuple(y + b for y, b in zip(products, w.bias, strict=True)) if w.bias else products

    def rms_norm(self, x: Any, w: Parts, eps: float) -> Any:
        return norm(x, w, eps)

    def rope_angles(self, positions: Any, w: Parts) -> Any:
        return positions[:, None].astype(np.float32) * w.arrays[0]

    def rope(self, x: Any, angles: Any) -> Any:
        return rotate(x, angles)

    def gated_activation(self, gate: Any, up: Any, kind: Activation) -> Any:
        if kind == "silu":
            return gate / (1 + np.exp(-gate)) * up
        inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate * gate * gate)
        return np.float32(0.5) * gate * (1 + np.tanh(inner)) * up

    def moe(self, x: Any, router: Any, gate_up: Any, down: Any, spec: MoESpec, batch: Batch) -> Any:
        raise NotSupported("elder has no experts")

    def logits(self, x: Any, w: Parts, softcap: float | None = None) -> Any:
        y = self.linear(x, w)
        return y if softcap is None else np.float32(softcap) * np.tanh(y / np.float32(softcap))

    def feed(self, batch: Batch, state: Any) -> Any:
        raise NotSupported("elder takes its tokens from the host")

    def sample(self, logits: Any, batch: Batch, state: Any) -> tuple[Sampled, Any]:
        sampled = sample_rows(logits, batch)
        state.last_token[batch.row_slot] = np.maximum(sampled.tokens, 0)
        return sampled, state


def norm(x: Any, w: Parts, eps: float) -> Any:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps)) * w.arrays[0]


def rotate(x: Any, angles: Any) -> Any:
    """x: [T, H, D], angles: [T, D / 2]."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
