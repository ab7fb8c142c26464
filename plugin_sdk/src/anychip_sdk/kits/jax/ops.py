"""The ops of the contract in JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from anychip_sdk.contract import Activation, Batch, Layer, MoESpec, Ops, Sampled
from anychip_sdk.kits.jax import layers, math, moe
from anychip_sdk.kits.jax.attention import JaxAttention
from anychip_sdk.kits.jax.sampling import sample_rows
from anychip_sdk.kits.jax.weights import Weight


class JaxOps(Ops):
    """A subclass that multiplies better overrides `_matmul`; everything that holds a linear layer goes through it."""

    def __init__(self) -> None:
        self.attention = JaxAttention()

    def _matmul(self, x: Array, w: Weight) -> Array:
        """x: [T, I] -> [T, O] float32, bias included."""
        y = math.matmul(x, w.array)
        return y if w.bias is None else y + w.bias.astype(jnp.float32)

    def embedding(self, ids: Array, w: Weight, scale: float = 1.0) -> Array:
        x = w.array.at[ids].get(mode="fill")  # NaN for an id beyond the vocabulary: `sample` reports its request
        return x if scale == 1.0 else x * jnp.asarray(scale, x.dtype)

    def take(self, x: Array, rows: Array) -> Array:
        return x[rows]

    def zeros_like(self, x: Array) -> Array:
        return jnp.zeros_like(x)

    def linear(self, x: Array, w: Weight) -> Array:
        return self._matmul(x, w).astype(x.dtype)

    def linear_split(self, x: Array, w: Weight) -> tuple[Array, ...]:
        ends = [sum(w.sizes[: i + 1]) for i in range(len(w.sizes) - 1)]
        return tuple(jnp.split(self.linear(x, w), ends, axis=-1))

    def rms_norm(self, x: Array, w: Weight, eps: float) -> Array:
        return math.rms_norm(x, w.array, eps)

    def rope_angles(self, positions: Array, w: Weight) -> math.Angles:
        return math.angles_of(positions, w.array)

    def rope(self, x: Array, angles: Any) -> Array:
        return math.rotate(x, angles)

    def gated_activation(self, gate: Array, up: Array, kind: Activation) -> Array:
        return math.activate(gate, up, kind)

    def moe(self, x: Array, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch) -> Array:
        return moe.experts(x, batch.counts[0], router, gate_up, down, spec)

    def logits(self, x: Array, w: Weight, softcap: float | None = None) -> Array:
        y = self._matmul(x, w)
        return y if softcap is None else softcap * jnp.tanh(y / softcap)

    def feed(self, batch: Batch, state: Any) -> Array:
        return jnp.where(batch.feed == 1, state.last_token[batch.token_slot], batch.token_ids)

    def sample(self, logits: Array, batch: Batch, state: Any) -> tuple[Sampled, Any]:
        sampled = sample_rows(logits, batch)
        tokens = jnp.maximum(sampled.tokens, 0)
        return sampled, replace(state, last_token=state.last_token.at[batch.row_slot].set(tokens))

    def layers(
        self,
        block: Callable[..., tuple[Any, ...]],
        specs: Sequence[Layer],
        weights: Any,
        carry: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        if isinstance(weights, layers.Stacked):
            return layers.run(block, specs, weights, carry)
        return super().layers(block, specs, weights, carry)
