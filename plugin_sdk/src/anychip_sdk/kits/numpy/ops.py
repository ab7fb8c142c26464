"""The ops of the contract in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anychip_sdk.contract import Activation, Batch, MoESpec, Ops, Sampled
from anychip_sdk.kits.numpy import math
from anychip_sdk.kits.numpy.attention import NumpyAttention
from anychip_sdk.kits.numpy.sampling import sample_rows
from anychip_sdk.kits.numpy.weights import Weight

_ACTIVATIONS: Mapping[Activation, Callable[[np.ndarray], np.ndarray]] = {
    "silu": math.silu,
    "gelu_tanh": math.gelu_tanh,
}


class NumpyOps(Ops):
    def __init__(self) -> None:
        self.attention = NumpyAttention()

    def embedding(self, ids: np.ndarray, w: Weight, scale: float = 1.0) -> np.ndarray:
        table = w.only("embedding")  # [V, E]
        y: np.ndarray = table[ids] * table.dtype.type(scale)
        return y

    def take(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        y: np.ndarray = x[rows]
        return y

    def zeros_like(self, x: np.ndarray) -> np.ndarray:
        return np.zeros_like(x)

    def linear(self, x: np.ndarray, w: Weight) -> np.ndarray:
        return np.concatenate(self.linear_split(x, w), axis=-1)

    def linear_split(self, x: np.ndarray, w: Weight) -> tuple[np.ndarray, ...]:
        products = [x @ part.T for part in w.parts]  # [T, I] @ [I, O]
        return tuple(y + b for y, b in zip(products, w.bias, strict=True)) if w.bias else tuple(products)

    def rms_norm(self, x: np.ndarray, w: Weight, eps: float) -> np.ndarray:
        return math.rms_norm(x, w, eps)

    def rope_angles(self, positions: np.ndarray, w: Weight) -> np.ndarray:
        frequencies = w.only("rope")  # [D / 2]
        y: np.ndarray = positions[:, None].astype(frequencies.dtype) * frequencies  # [T, D / 2]
        return y

    def rope(self, x: np.ndarray, angles: Any) -> np.ndarray:
        return math.rotate(x, angles)

    def gated_activation(self, gate: np.ndarray, up: np.ndarray, kind: Activation) -> np.ndarray:
        y: np.ndarray = _ACTIVATIONS[kind](gate) * up
        return y

    def moe(
        self, x: np.ndarray, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch
    ) -> np.ndarray:
        out = np.zeros_like(x)  # stays zero for padding
        gate, up = gate_up.parts  # [experts, I, E] each
        back = down.only("experts")  # [experts, E, I]
        probabilities = np.exp(math.log_softmax(self.linear(x, router)))  # [T, experts]
        for t in range(int(batch.counts[0])):
            chosen = np.argsort(-probabilities[t], kind="stable")[: spec.top_k]
            weights = probabilities[t, chosen]
            if spec.renormalize:
                weights = weights / weights.sum()
            for expert, weight in zip(chosen, weights, strict=True):
                hidden = self.gated_activation(gate[expert] @ x[t], up[expert] @ x[t], spec.activation)  # [I]
                out[t] += weight * (back[expert] @ hidden)
        return out

    def logits(self, x: np.ndarray, w: Weight, softcap: float | None = None) -> np.ndarray:
        y = self.linear(x, w)  # w: a linear handle, or the embedding that is the head too
        capped: np.ndarray = y if softcap is None else softcap * np.tanh(y / softcap)
        return capped.astype(np.float32)

    def feed(self, batch: Batch, state: Any) -> np.ndarray:
        y: np.ndarray = np.where(batch.feed == 1, state.last_token[batch.token_slot], batch.token_ids)
        return y

    def sample(self, logits: np.ndarray, batch: Batch, state: Any) -> tuple[Sampled, Any]:
        sampled = sample_rows(logits, batch)
        state.last_token[batch.row_slot] = np.maximum(sampled.tokens, 0)
        return sampled, state
