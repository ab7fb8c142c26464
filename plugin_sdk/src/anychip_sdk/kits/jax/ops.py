"""The ops of the contract in JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec

from anychip_sdk.contract import Activation, Batch, Layer, MoESpec, Ops, Sampled
from anychip_sdk.kits.jax import layers, math, moe
from anychip_sdk.kits.jax.attention import JaxAttention
from anychip_sdk.kits.jax.ranks import AXIS, Ranks
from anychip_sdk.kits.jax.sampling import sample_rows
from anychip_sdk.kits.jax.weights import Weight


class JaxOps(Ops):
    """A subclass that multiplies better overrides `_matmul`; everything that holds a linear layer goes through it."""

    _dense_rows = 0
    """Up to how many rows all experts take all of them, see `moe.experts`."""

    def __init__(self, ranks: Ranks) -> None:
        self.attention = JaxAttention()
        self._ranks = ranks
        self._grouped = moe.RAGGED  # how experts multiply their rows, where they do not take all of them

    def _matmul(self, x: Array, w: Weight) -> Array:
        """x: [T, I] -> [T, O] float32, bias included. With tp="in" ranks add up what they have in x's dtype."""
        y = self._summed(x, w) if w.tp == "in" else math.matmul(x, w.array)
        return y if w.bias is None else y + w.bias.astype(jnp.float32)

    def _summed(self, x: Array, w: Weight) -> Array:
        def part(x: Array, w: Array) -> Array:
            return lax.psum(math.matmul(x, w).astype(x.dtype), AXIS).astype(jnp.float32)

        inner = PartitionSpec(None, AXIS)
        return self._on_ranks(part, (inner, inner))(x, w.array)

    def _gathered(self, x: Array, w: Weight) -> Array:
        """All outputs on every rank. Left to itself XLA may gather the weight instead."""

        def part(x: Array, w: Array) -> Array:
            return lax.all_gather(math.matmul(x, w), AXIS, axis=1, tiled=True)

        return self._on_ranks(part, (PartitionSpec(), PartitionSpec(AXIS)))(x, w.array)

    def _on_ranks(self, part: Callable[..., Array], specs: tuple[PartitionSpec, ...]) -> Callable[..., Array]:
        """part on every rank, with the same result on each."""
        mesh = self._ranks.mesh
        return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)

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
        ranks = self._ranks.size if w.tp == "out" else 1
        ends = [sum(w.sizes[: i + 1]) // ranks for i in range(len(w.sizes) - 1)]
        y = self.linear(x, w).reshape(x.shape[0], ranks, -1)  # each rank's outputs side by side
        return tuple(part.reshape(x.shape[0], -1) for part in jnp.split(y, ends, axis=-1))

    def rms_norm(self, x: Array, w: Weight, eps: float) -> Array:
        return math.rms_norm(x, w.array, eps)

    def rope_angles(self, positions: Array, w: Weight) -> math.Angles:
        return math.angles_of(positions, w.array)

    def rope(self, x: Array, angles: Any) -> Array:
        return math.rotate(x, angles)

    def gated_activation(self, gate: Array, up: Array, kind: Activation) -> Array:
        return math.activate(gate, up, kind)

    def moe(self, x: Array, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch) -> Array:
        real, how = batch.counts[0], None if x.shape[0] <= self._dense_rows else self._grouped
        if gate_up.tp is None:
            return moe.experts(x, real, router, gate_up, down, spec, how)
        return moe.experts_of_ranks(self._ranks, x, real, router, gate_up, down, spec, how)

    def logits(self, x: Array, w: Weight, softcap: float | None = None) -> Array:
        y = self._gathered(x, w) if w.tp == "out" else self._matmul(x, w)
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
