"""The ops interface: the coarse primitives that models are written in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from anychip_sdk.contract.attention import Attention
from anychip_sdk.contract.batch import Array, Batch
from anychip_sdk.contract.checked import Checked
from anychip_sdk.contract.specs import Activation, Layer, MoESpec

Handle = Any
State = Any

NO_TOKEN = -1
"""What `Ops.sample` puts where a row's logits hold NaN: that request fails, the others go on."""


@dataclass(frozen=True)
class Sampled:
    """What a step brings back. R logit rows, N = key.sample.logprobs alternatives, or a vocabulary that is smaller.

    `logprob`, `rank`, `top_tokens` and `top_logprobs` are None unless asked for. They come from the log-softmax of
    the logits as the model made them, before edits, penalties and temperature. Rank 1 is the most likely token."""

    tokens: Array
    """[R] int32; NO_TOKEN where the logits hold NaN"""
    logprob: Array | None = None
    """[R] float32, of the sampled token or of the row's target"""
    rank: Array | None = None
    """[R] int32: 1 + tokens with a larger logprob"""
    top_tokens: Array | None = None
    """[R, N] int32, most likely first"""
    top_logprobs: Array | None = None
    """[R, N] float32"""


class Ops(Checked):
    """x: [T or R, E]. Output dtype = input dtype, so that a carry of `layers` keeps its type. No op may look at
    values on the host. Handles come from `Device.pack`."""

    attention: Attention
    adopted: ClassVar[Mapping[str, str]] = {}
    """Ops that this platform takes from a kit by choice: name -> why. Any other op whose code lies in a kit counts
    as reference code in the op table, and `--strict` refuses it."""

    provided: ClassVar[Mapping[str, str]] = {}
    """Ops, attention methods among them ("attention.attend"), that another library computes since the user asked for
    that provider: name -> the library, its version and its function. The op table shows it."""

    @abstractmethod
    def embedding(self, ids: Array, w: Handle, scale: float = 1.0) -> Array:
        """[T] -> [T, E], times `scale` rounded to the dtype"""

    @abstractmethod
    def take(self, x: Array, rows: Array) -> Array:
        """[T, E], [R] -> [R, E]"""

    @abstractmethod
    def zeros_like(self, x: Array) -> Array: ...

    @abstractmethod
    def linear(self, x: Array, w: Handle) -> Array:
        """[T, I] -> [T, O]. With tp="in" the full sum over ranks: the all-reduce is in here"""

    @abstractmethod
    def linear_split(self, x: Array, w: Handle) -> tuple[Array, ...]:
        """One array per part of the handle; they may be views of one product"""

    @abstractmethod
    def rms_norm(self, x: Array, w: Handle, eps: float) -> Array:
        """Over the last axis, any rank, float32 inside (arXiv:1910.07467)"""

    @abstractmethod
    def rope_angles(self, positions: Array, w: Handle) -> Any:
        """[T] and the inverse frequencies -> what `rope` takes. Once a step, outside the layer loop"""

    @abstractmethod
    def rope(self, x: Array, angles: Any) -> Array:
        """[T, H, D] rotated, halves paired (x[i] with x[i + D/2]), as Hugging Face's checkpoints expect"""

    @abstractmethod
    def gated_activation(self, gate: Array, up: Array, kind: Activation) -> Array:
        """activation(gate) * up"""

    @abstractmethod
    def moe(self, x: Array, router: Handle, gate_up: Handle, down: Handle, spec: MoESpec, batch: Batch) -> Array:
        """Sum over each token's top-k experts of weight * down(act(gate(x)) * up(x)). Rows past batch.counts[0]
        are padding and need not be computed"""

    @abstractmethod
    def logits(self, x: Array, w: Handle, softcap: float | None = None) -> Array:
        """[R, E] -> [R, V] float32, the vocabulary gathered over ranks and unpadded"""

    @abstractmethod
    def feed(self, batch: Batch, state: State) -> Array:
        """-> token ids [T]: `batch.token_ids`, or `state.last_token[token_slot]` where `batch.feed` is 1"""

    @abstractmethod
    def sample(self, logits: Array, batch: Batch, state: State) -> tuple[Sampled, State]:
        """logits: [R, V] float32. In this order: add the edits; penalties (repetition: Keskar et al.,
        arXiv:1909.05858; presence and frequency: OpenAI's definition) for the listed (row, token) pairs; where
        temperature is 0 take the largest, first index on ties; else divide by temperature, keep the top_k most
        likely, of these the smallest set whose probability reaches top_p (arXiv:1904.09751), of these the ones
        with at least min_p times the largest probability (arXiv:2407.01082), renormalise, and take the first
        token, in order of falling probability (lower token id first on ties), at which the cumulative probability
        exceeds the row's UNIFORM. The probabilities top_p adds up are those among the top_k.
        Writes tokens to `state.last_token[row_slot]`, 0 for NO_TOKEN, since a step in flight may feed on it."""

    def greedy_logits(self, x: Array, w: Handle) -> Array:
        """As `logits` without a softcap, for steps whose rows all take their most likely token (`SampleKind.greedy`).
        The largest of a row, and all as large, are what `logits` gives; the others may be any smaller numbers, so a
        device need not compute them. A row with NaN there has one here"""
        return self.logits(x, w)

    def add_rms_norm(self, x: Array, residual: Array, w: Handle, eps: float) -> tuple[Array, Array]:
        """-> rms_norm(x + residual), x + residual"""
        total = self._add(x, residual)
        return self.rms_norm(total, w, eps), total

    def gated_mlp(self, x: Array, gate_up: Handle, down: Handle, kind: Activation) -> Array:
        """down(activation(gate(x)) * up(x))"""
        gate, up = self.linear_split(x, gate_up)
        return self.linear(self.gated_activation(gate, up, kind), down)

    def layers(
        self,
        block: Callable[..., tuple[Any, ...]],
        specs: Sequence[Layer],
        weights: Any,
        carry: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """carry = block(layer, w, *carry) for every layer. A tracing device may scan by period"""
        for layer, w in zip(specs, weights, strict=True):
            carry = block(layer, w, *carry)
        return carry

    def _add(self, x: Array, residual: Array) -> Array:
        """x + residual where arrays have operators; override where they have none."""
        return x + residual
