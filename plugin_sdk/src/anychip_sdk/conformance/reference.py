"""The CPU reference: a plain implementation of every op in the test dtype, whose error sets the budget.

Plain means: sums run term by term in the carrier (float32, or float64 for float64), and every array that an
implementation made of separate kernels would store is rounded to the dtype. It is slow, and needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from anychip_sdk.conformance.numerics import carrier, rounded
from anychip_sdk.conformance.quantised import INPUT_BITS, Quantised, kept, on_grid, quantised
from anychip_sdk.contract import (
    Activation,
    AttentionSpec,
    Batch,
    Capabilities,
    DeviceInfo,
    DType,
    KVDType,
    Layer,
    MoESpec,
    Reader,
    WeightSpec,
)
from anychip_sdk.kits.numpy import NumpyAttention, NumpyDevice, NumpyOps, Weight, math
from anychip_sdk.kits.numpy.allocator import KV
from anychip_sdk.kits.numpy.scaled import cells, read
from anychip_sdk.kits.numpy.weights import pack


def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x: [..., T, I], w: [..., O, I] -> [..., T, O], one term after the other."""
    y = np.zeros((*x.shape[:-1], w.shape[-2]), x.dtype)
    for i in range(x.shape[-1]):
        y += x[..., :, i, None] * w[..., None, :, i]
    return y


class ReferenceOps(NumpyOps):
    extends = ("dtype",)

    def __init__(self, dtype: DType, kv_dtype: KVDType) -> None:
        super().__init__()
        self.dtype = dtype
        self.attention = ReferenceAttention(dtype, kv_dtype)

    def _round(self, x: np.ndarray) -> np.ndarray:
        return rounded(x, self.dtype)

    def embedding(self, ids: np.ndarray, w: Weight, scale: float = 1.0) -> np.ndarray:
        return self._round(w.only("embedding")[ids] * rounded(scale, self.dtype))

    def linear_split(self, x: np.ndarray, w: Weight) -> tuple[np.ndarray, ...]:
        x, parts = (on_grid(x, INPUT_BITS), w.grid) if isinstance(w, Quantised) else (x, w.parts)
        products = [self._round(product(x, part)) for part in parts]
        return tuple(self._round(y + b) for y, b in zip(products, w.bias, strict=True)) if w.bias else tuple(products)

    def rms_norm(self, x: np.ndarray, w: Weight, eps: float) -> np.ndarray:
        return self._round(math.rms_norm(x, w, eps))

    def rope(self, x: np.ndarray, angles: Any) -> np.ndarray:
        return self._round(math.rotate(x, angles))

    def gated_activation(self, gate: np.ndarray, up: np.ndarray, kind: Activation) -> np.ndarray:
        act = math.silu(gate) if kind == "silu" else math.gelu_tanh(gate)
        return self._round(self._round(act) * up)

    def moe(
        self, x: np.ndarray, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch
    ) -> np.ndarray:
        out = np.zeros_like(x)
        scores = self.linear(x, router)
        p = np.exp(math.log_softmax(scores))  # [T, experts]
        for t in range(int(batch.counts[0])):
            chosen = np.argsort(-p[t], kind="stable")[: spec.top_k]
            share = p[t, chosen] / p[t, chosen].sum() if spec.renormalize else p[t, chosen]
            for e, weight in zip(chosen, self._round(share), strict=True):
                gate, up = (self._round(product(x[t : t + 1], part[e])) for part in gate_up.parts)
                y = self._round(product(self.gated_activation(gate, up, spec.activation), down.parts[0][e]))
                out[t] = self._round(out[t] + self._round(weight * y[0]))
        return out

    def _add(self, x: np.ndarray, residual: np.ndarray) -> np.ndarray:
        return self._round(x + residual)


class ReferenceAttention(NumpyAttention):
    extends = ("dtype", "kv_dtype")

    def __init__(self, dtype: DType, kv_dtype: KVDType) -> None:
        self.dtype, self.kv_dtype = dtype, kv_dtype

    def write(self, k: np.ndarray, v: np.ndarray, kv: KV, batch: Batch, layer: Layer) -> KV:
        k, v = (rounded(kept(x, self.kv_dtype), self.dtype) for x in (k, v))
        return super().write(k, v, kv, batch, layer)

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
        q, k = self._heads(q, layer, q_norm, angles), self._heads(k, layer, k_norm, angles)
        v = v.reshape(len(v), k.shape[1], -1)
        return q, self.write(k, v, kv, batch, layer)

    def _heads(self, x: np.ndarray, layer: Layer, norm: Weight | None, angles: Any) -> np.ndarray:
        """[T, H * D] -> [T, H, D], normed and rotated, rounded after each."""
        x = x.reshape(len(x), -1, layer.attention.head_dim)
        if norm is not None:
            x = rounded(math.rms_norm(x, norm, layer.attention.eps), self.dtype)
        return x if angles is None else rounded(math.rotate(x, angles), self.dtype)

    def _attend(self, q: np.ndarray, kv: KV, batch: Batch, layer: Layer, sinks: np.ndarray | None) -> np.ndarray:
        spec = layer.attention
        K, Dv = cells(kv[spec.group][1]).shape[3:]
        T, H, _ = q.shape
        out = np.zeros((T, H, Dv), q.dtype)
        for seq in range(int(batch.counts[1])):
            start, stop = int(batch.query_start[seq]), int(batch.query_start[seq + 1])
            length, pages = int(batch.seq_lens[seq]), batch.page_table[spec.group, seq]
            k, v = (
                np.repeat(read(cache, layer.kv_index, pages, q.dtype)[:length].swapaxes(0, 1), H // K, axis=0)
                for cache in kv[spec.group]
            )  # [H, L, D]
            seen = _seen(batch.positions[start:stop], length, spec.window)
            heads = self._heads_attend(q[start:stop].swapaxes(0, 1), k, v, seen, spec, sinks)
            out[start:stop] = heads.swapaxes(0, 1)
        return out.reshape(T, H * Dv)

    def _heads_attend(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        seen: np.ndarray,
        spec: AttentionSpec,
        sinks: np.ndarray | None,
    ) -> np.ndarray:
        """q: [H, n, D], k: [H, L, D], v: [H, L, Dv], seen: [n, L], sinks: [H] -> [H, n, Dv]."""
        used = seen.any(axis=0)  # places that no query sees may hold NaN
        k, v, seen = k[:, used], v[:, used], seen[:, used]
        scores = rounded(rounded(product(q, k), self.dtype) * spec.scale, self.dtype)
        if spec.softcap is not None:
            inner = rounded(scores / q.dtype.type(spec.softcap), self.dtype)
            scores = rounded(rounded(np.tanh(inner), self.dtype) * q.dtype.type(spec.softcap), self.dtype)
        scores = np.where(seen, scores, -np.inf).astype(q.dtype)
        if sinks is not None:  # one more score, whose share is dropped
            more = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
            scores = np.concatenate([scores, more.astype(q.dtype)], axis=-1)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p = rounded(p / p.sum(axis=-1, keepdims=True), self.dtype)[..., : k.shape[1]]
        return rounded(product(p, v.swapaxes(1, 2)), self.dtype)


def _seen(positions: np.ndarray, length: int, window: int | None) -> np.ndarray:
    """[n, L]: which places each query sees."""
    place = np.arange(length)
    seen: np.ndarray = place <= positions[:, None]
    return seen if window is None else seen & (place > positions[:, None] - window)


class ReferenceDevice(NumpyDevice):
    """The reference as a device that an engine can run: it claims its carrier, and rounds to `dtype` inside."""

    extends = ("dtype",)

    def __init__(self, dtype: DType, kv_dtype: KVDType | None = None) -> None:
        super().__init__(DeviceInfo(name="reference", description=f"the reference in {dtype}", details={}))
        wide: DType = "float64" if dtype == "float64" else "float32"
        self.capabilities: Capabilities = replace(self.capabilities, weight_dtypes=(wide,), kv_dtypes=(wide,))
        self.dtype = dtype
        self.ops = ReferenceOps(dtype, kv_dtype or dtype)

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        """Norms, rope and vectors stay in the carrier; the rest is on the grid of `dtype`."""
        wide: DType = "float64" if carrier(self.dtype) is np.float64 else "float32"
        w = pack(replace(spec, quantize=None), read, shapes, wide)
        if spec.kind in ("norm", "rope", "vector"):
            return w
        parts = tuple(rounded(p, self.dtype) for p in w.parts)
        w = Weight(w.kind, parts, tuple(rounded(b, self.dtype) for b in w.bias))
        return w if spec.quantize is None else quantised(w, spec.quantize)
