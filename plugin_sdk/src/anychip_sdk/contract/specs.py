"""Static, frozen, hashable descriptions: what a model needs and what shapes a step has. No arrays but constants."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

DType = Literal["float32", "bfloat16", "float16", "float64"]
KVDType = DType | Literal["int8", "fp8"]
"""What KV is kept in. In "int8" and "fp8" (floats of 8 bits with 4 of exponent and 3 of mantissa, OCP's or fnuz's as
the device has them) each vector of K and of V, one token's in one KV head, is numbers of 8 bits times a float32 scale
of its own: its largest magnitude over the format's largest number. Numbers are rounded to nearest, a vector of zeros
reads as zeros, and one that holds NaN or infinity reads as NaN."""
WeightKind = Literal["linear", "norm", "embedding", "experts", "rope", "vector"]
Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class QuantFormat:
    """Weights as whole numbers of `bits` with sign, times a scale for every `group` inputs of an output; None: one
    scale for all of an output's inputs."""

    bits: int
    group: int | None = None

    def nbytes(self, outputs: int, inputs: int) -> int:
        """Bytes of a weight [outputs, inputs], its scales in 16 bits."""
        return outputs * (-(-inputs * self.bits // 8) + 2 * (1 if self.group is None else -(-inputs // self.group)))


QUANT_FORMATS: Mapping[str, QuantFormat] = {
    "int8": QuantFormat(8),
    "int8-g32": QuantFormat(8, 32),
    "int8-g64": QuantFormat(8, 64),
    "int8-g128": QuantFormat(8, 128),
    "int4": QuantFormat(4, 64),
    "int4-g32": QuantFormat(4, 32),
    "int4-g64": QuantFormat(4, 64),
    "int4-g128": QuantFormat(4, 128),
}
"""What float weights can be turned into while they are packed, by the names that users give."""


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """One kind of attention. It never holds head counts: those are local to a rank and follow from array shapes.

    `window`: a token sees itself and the `window - 1` tokens before it; None sees all before it.
    `softcap`: scores become `softcap * tanh(scores / softcap)` before masking (Gemma 2, arXiv:2408.00118).
    `eps` is that of the optional q/k norms.
    """

    head_dim: int
    scale: float
    group: int = 0
    window: int | None = None
    softcap: float | None = None
    eps: float = 1e-6


@dataclass(frozen=True)
class Layer:
    """Static facts of one layer. `kv_index`: its place within its KV group; an int, or a traced scalar inside a
    scan. `rope`: which of the model's rope tables it takes. `final`: the model's last, which may give back the batch's
    logit rows alone; `Ops.layers` may clear it, where a loop needs layers that are alike."""

    attention: AttentionSpec
    kv_index: Any
    rope: int = 0
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class MoESpec:
    """Top-k routing over softmax probabilities; `renormalize` makes the chosen ones sum to one."""

    experts: int
    top_k: int
    renormalize: bool
    activation: Activation


@dataclass(frozen=True, kw_only=True)
class Paged:
    """Layers that share one page table: K is [layers, pages, page_size, kv_heads, k_dim], V likewise with v_dim.
    `window`: every layer of the group has it, so pages wholly behind it are freed."""

    layers: int
    kv_heads: int
    k_dim: int
    v_dim: int
    window: int | None = None


SCALED_KV: tuple[KVDType, ...] = ("int8", "fp8")
"""Of what KV is kept in: numbers with a scale for each vector."""

_KV_ITEM: Mapping[KVDType, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True)
class KVSpec:
    """All KV groups of a model and what they are kept in."""

    groups: tuple[Paged, ...]
    dtype: KVDType

    def page_bytes(self, group: int, page_size: int) -> int:
        """Bytes of one page of `group`, over all its layers, the scales of its vectors included."""
        g = self.groups[group]
        scales = 2 * 4 if self.dtype in SCALED_KV else 0
        return g.layers * page_size * g.kv_heads * ((g.k_dim + g.v_dim) * _KV_ITEM[self.dtype] + scales)


@dataclass(frozen=True)
class KVLayout:
    """How the KV cache lies on the device. Page 0 of every group and request slot 0 are scratch and never given
    out, so an all-zero batch harms nothing. `pages` counts page 0. `slots` counts slot 0. `padded`: bytes a page of
    each group takes where the device pads its rows; empty where a page takes what `spec.page_bytes` says."""

    spec: KVSpec
    page_size: int
    pages: tuple[int, ...]
    slots: int
    padded: tuple[int, ...] = ()

    def page_bytes(self, group: int) -> int:
        """Bytes that one page of `group` takes on the device, over all its layers."""
        return self.padded[group] if self.padded else self.spec.page_bytes(group, self.page_size)

    @property
    def nbytes(self) -> int:
        """Of all pages of all groups."""
        return sum(count * self.page_bytes(g) for g, count in enumerate(self.pages))


@dataclass(frozen=True)
class WeightSpec:
    """One weight handle. `parts`: checkpoint names, one tuple per output part; a part of several names is a stack
    along a new first axis (experts). Shapes follow the checkpoint: a linear part is [out, in].

    `tp`: "out" shards outputs, "in" shards inputs (`linear` returns the full sum), None replicates.
    `bias`: one checkpoint name per part, or empty. `offset` is added to the values (Gemma's norms keep w - 1).
    `const` holds the values itself (rope frequencies) instead of `parts`.
    `quantize`: a name of QUANT_FORMATS that a linear weight or experts are to be kept in. Of an embedding, which then
    serves as the head too, it says what `Ops.logits` reads; the table that `Ops.embedding` reads stays as it is.
    `head`: `Ops.greedy_logits` reads it; False where logits have a softcap.
    """

    parts: tuple[tuple[str, ...], ...]
    kind: WeightKind
    tp: Literal["out", "in"] | None = None
    bias: tuple[str, ...] = ()
    offset: float = 0.0
    const: np.ndarray | None = field(default=None, compare=False, hash=False)
    quantize: str | None = None
    head: bool = False

    def halves(self, stored: Callable[[str], str | None]) -> Literal["bfloat16", "float16"] | None:
        """The 16 bits in which a device that declares `Capabilities.keeps_halves` keeps the weight in float32: those
        that all its tensors are in, biases among them, which would else be rounded. None where there are none, or
        where an offset is added, as the sum may need more bits. stored: a tensor's dtype in the checkpoint."""
        if self.kind not in ("linear", "embedding", "experts") or self.offset:
            return None
        found = {stored(name) for part in (*self.parts, self.bias) for name in part}
        return "bfloat16" if found == {"bfloat16"} else "float16" if found == {"float16"} else None


@dataclass(frozen=True)
class Bucket:
    """Shapes of a step: tokens T, sequences B, page-table columns P, logit rows R, KV groups G.
    `decode`: every sequence has one token and token i belongs to sequence i."""

    tokens: int
    seqs: int
    pages: int
    rows: int
    decode: bool
    groups: int = 1


@dataclass(frozen=True)
class SampleKind:
    """Which sampling code a step needs. Part of the step's key, so its values are kept few.

    `filters`: some row has temperature > 0. `penalties`: length of the list of token counts, 0 for none.
    `edits`: length of the list of logit edits, 0 for none (both padded to powers of two by the core).
    `logprobs`: None, or how many top alternatives are reported beside the chosen token.
    """

    filters: bool = False
    penalties: int = 0
    edits: int = 0
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        """Every row takes the largest of its logits as the model made them."""
        return self == SampleKind()


@dataclass(frozen=True)
class StepKey:
    """Everything static about a step: what a capturing or compiling device keys its programs by.
    `feed`: some token ids come from `state` (see `Ops.feed`). `static`: what `Attention.plan` returned."""

    bucket: Bucket
    sample: SampleKind = SampleKind()
    feed: bool = False
    static: Hashable = None

    @cached_property
    def _hash(self) -> int:
        return hash((self.bucket, self.sample, self.feed, self.static))

    def __hash__(self) -> int:
        """Made once: a step looks its key up several times."""
        return self._hash
