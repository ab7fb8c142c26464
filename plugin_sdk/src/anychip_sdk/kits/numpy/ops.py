"""The ops of the contract in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from anychip_sdk.contract import Activation, Batch, MoESpec, Ops, Sampled
from anychip_sdk.kits.numpy import math
from anychip_sdk.kits.numpy.attention import NumpyAttention
from anychip_sdk.kits.numpy.math import Weight
from anychip_sdk.kits.numpy.sampling import sample_rows

_ACTIVATIONS = {"silu": math.silu, "gelu_tanh": math.gelu_tanh}


class NumpyOps(Ops):
    def __init__(self) -> None:
        self.attention = NumpyAttention()

    def embedding(self, ids: np.ndarray, w: Weight, scale: float = 1.0) -> np.ndarray:
        return w.array[ids] * w.array.dtype.type(scale)

    def take(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return x[rows]

    def zeros_like(self, x: np.ndarray) -> np.ndarray:
        return np.zeros_like(x)

    def linear(self, x: np.ndarray, w: Weight) -> np.ndarray:
        y = x @ w.array.T
        return y if w.bias is None else y + w.bias

    def linear_split(self, x: np.ndarray, w: Weight) -> tuple[np.ndarray, ...]:
        return tuple(np.split(self.linear(x, w), np.cumsum(w.sizes)[:-1], axis=-1))

    def rms_norm(self, x: np.ndarray, w: Weight, eps: float) -> np.ndarray:
        return math.rms_norm(x, w, eps)

    def rope_angles(self, positions: np.ndarray, w: Weight) -> np.ndarray:
        return positions[:, None].astype(w.array.dtype) * w.array  # [T, D / 2]

    def rope(self, x: np.ndarray, angles: Any) -> np.ndarray:
        return math.rotate(x, angles)

    def gated_activation(self, gate: np.ndarray, up: np.ndarray, kind: Activation) -> np.ndarray:
        return _ACTIVATIONS[kind](gate) * up

    def moe(
        self, x: np.ndarray, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch
    ) -> np.ndarray:
        out = np.zeros_like(x)
        split = gate_up.sizes[0]
        for t in range(int(batch.counts[0])):
            probabilities = np.exp(math.log_softmax(x[t] @ router.array.T))  # [experts]
            chosen = np.argsort(-probabilities, kind="stable")[: spec.top_k]
            weights = probabilities[chosen]
            if spec.renormalize:
                weights = weights / weights.sum()
            for expert, weight in zip(chosen, weights, strict=True):
                hidden = gate_up.array[expert] @ x[t]
                hidden = self.gated_activation(hidden[:split], hidden[split:], spec.activation)
                out[t] += weight * (down.array[expert] @ hidden)
        return out

    def logits(self, x: np.ndarray, w: Weight, softcap: float | None = None) -> np.ndarray:
        y = self.linear(x, w)
        return (y if softcap is None else softcap * np.tanh(y / softcap)).astype(np.float32)

    def feed(self, batch: Batch, state: Any) -> np.ndarray:
        return np.where(batch.feed == 1, state.last_token[batch.token_slot], batch.token_ids)

    def sample(self, logits: np.ndarray, batch: Batch, state: Any) -> tuple[Sampled, Any]:
        sampled = sample_rows(logits, batch)
        state.last_token[batch.row_slot] = sampled.tokens
        return sampled, state
