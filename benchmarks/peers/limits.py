"""The least time a workload can take on a machine: bytes over its read bandwidth, operations over its GEMM peak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peers import runner

WEIGHT_BYTES = {"float32": 2, "bfloat16": 2, "int8": 1}
"""Of a weight that is read, by format; scales left out. The checkpoints are in bfloat16, which float32 only widens."""
HEAD = {"float32": "int8", "bfloat16": "bfloat16", "int8": "int8"}
"""What a head is read and multiplied in where all requests are greedy: see `Ops.greedy_logits`."""
FEW = 4
"""Rows up to which such a head of the format int8 is read in SIX_BITS alone."""
SIX_BITS = 6 / 8
KV_BYTES = {"float32": 4, "bfloat16": 2, "int8": 2}


@dataclass(frozen=True)
class Machine:
    """read: bytes/s. peaks: operations/s by format, where a multiplication with its addition counts two."""

    read: float
    peaks: Mapping[str, float]


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder. The head, or the table it shares with the embedding, is vocabulary x hidden."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """config: that of a Llama or Qwen3 checkpoint."""
        return cls(
            config["num_hidden_layers"],
            config["hidden_size"],
            config["intermediate_size"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["head_dim"],
            config["vocab_size"],
        )

    @property
    def linear(self) -> int:
        """Weights of the linear layers, the head apart."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        return self.vocabulary * self.hidden

    def attention(self, keys: int) -> int:
        """Operations of as many pairs of a query and a key, in all layers."""
        return 4 * self.layers * self.heads * self.head_dim * keys

    def kv(self, tokens: int, format: str) -> int:
        """Bytes of K and V."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * KV_BYTES[format]


@dataclass(frozen=True)
class Limit:
    """Seconds."""

    prefill: float
    decode: float

    @property
    def total(self) -> float:
        return self.prefill + self.decode


def weight_bytes(shape: Shape, format: str, rows: int = 1) -> float:
    """What a step with so many rows of logits reads."""
    part = SIX_BITS if format == "int8" and rows <= FEW else 1
    return shape.linear * WEIGHT_BYTES[format] + shape.head * WEIGHT_BYTES[HEAD[format]] * part


def limit(shape: Shape, work: runner.Work, format: str, machine: Machine) -> Limit:
    """All prompts in one go, each computed once beyond what all share, and then a step for each token with every
    request that still needs one. What the caches hold is not read again within a step; activations cost nothing."""
    prompts = [prompt for prompt, _ in work]
    shared = runner.shared(prompts)
    own = [len(prompt) - shared for prompt in prompts]

    def computing(tokens: int, rows: int, keys: int) -> float:
        """Seconds, for so many tokens, rows of logits and pairs of a query and a key."""
        operations = 2 * shape.linear * tokens + shape.attention(keys)
        return operations / machine.peaks[format] + 2 * shape.head * rows / machine.peaks[HEAD[format]]

    keys = shared * (shared + 1) // 2 + sum(n * shared + n * (n + 1) // 2 for n in own)
    prefill = max(computing(shared + sum(own), len(work), keys), weight_bytes(shape, format, len(work)) / machine.read)
    decode = 0.0
    for step in range(1, max(count for _, count in work)):
        running = [n for n, (_, count) in zip(own, work, strict=True) if count > step]
        kept = sum(running) + step * len(running)
        computed = computing(len(running), len(running), kept + shared * len(running))
        read_bytes = weight_bytes(shape, format, len(running)) + shape.kv(kept + shared, format)
        decode += max(computed, read_bytes / machine.read)
    return Limit(prefill, decode)
