"""The attention interface: ragged paged attention, prefill and decode mixed in one batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any

from anychip_sdk.contract.batch import Array, Batch, Shapes
from anychip_sdk.contract.checked import Checked
from anychip_sdk.contract.errors import NotSupported
from anychip_sdk.contract.specs import AttentionSpec, Bucket, DType, KVSpec, Layer

Handle = Any
KV = Any


class Attention(Checked):
    """Models call `run`. A chip starts with `write` and `attend` and fuses by overriding `prepare` or `run`.
    Variants are fields of `AttentionSpec`, not classes. H query heads, K KV heads and D head_dim follow from the
    arrays' shapes: query head h reads KV head h // (H // K)."""

    def supports(self, spec: AttentionSpec) -> None:
        """Raises NotSupported, with the reason, for a kind of attention this chip does not have."""

    def fallback(self, spec: AttentionSpec, heads: int, kv: KVSpec, dtype: DType) -> str | None:
        """Why attention of this kind would run on a kit's reference code though the chip has its own, which
        `--strict` then refuses; None: it would not. heads: query heads; kv: the caches; both of all ranks. dtype: of
        weights and activations."""
        return None

    def plan_shapes(self, bucket: Bucket) -> Shapes:
        """Names and shapes of the int32 arrays that `plan` fills, by bucket alone."""
        return ()

    def plan(self, host: Batch) -> Hashable:
        """On the host, before the upload: fill `host.plan[name][:]`. What it returns becomes `key.static`."""
        return None

    def begin(self, batch: Batch) -> Batch:
        """Once a step on the device: masks, work lists and the like into `batch.plan`."""
        return batch

    @abstractmethod
    def write(self, k: Array, v: Array, kv: KV, batch: Batch, layer: Layer) -> KV:
        """k: [T, K, D], v: [T, K, Dv] go to `batch.slot_mapping[group]` of the layer's cache, rounded to what that is
        kept in (`KVDType`). Padding goes to scratch. Returns the cache (the same one where it is changed in place)."""

    @abstractmethod
    def attend(self, q: Array, kv: KV, batch: Batch, layer: Layer) -> Array:
        """q: [T, H, D] -> [T, H * Dv], q's dtype. K and V of this step are written already. The token at position
        p sees positions max(0, p - window + 1) to p. Masked places of a page, and their scales, may hold NaN
        and must not leak."""

    def attend_with_sinks(self, q: Array, kv: KV, batch: Batch, layer: Layer, sinks: Handle) -> Array:
        """`attend`, where a query head h has one more score to spend its attention on, with nothing behind it: it is
        sinks[h], neither scaled nor capped, whatever the window, so exp(sinks[h]) joins the softmax's denominator once
        (arXiv:2309.17453; learned for each head, as in gpt-oss, arXiv:2508.10925). sinks: a handle of kind "vector",
        [H] of this rank. Models call it behind `prepare`. Raises NotSupported unless `Capabilities.sinks`."""
        raise NotSupported(f"{type(self).__name__} has no attention sinks")

    @abstractmethod
    def prepare(
        self,
        q: Array,
        k: Array,
        v: Array,
        kv: KV,
        batch: Batch,
        layer: Layer,
        *,
        angles: Any = None,
        q_norm: Handle | None = None,
        k_norm: Handle | None = None,
    ) -> tuple[Array, KV]:
        """q: [T, H*D], k: [T, K*D], v: [T, K*Dv]: split heads, RMSNorm q and k per head where a handle is given
        (`layer.attention.eps`), rotate both by `angles` where given, write K and V. -> q [T, H, D], kv."""

    def run(
        self,
        q: Array,
        k: Array,
        v: Array,
        kv: KV,
        batch: Batch,
        layer: Layer,
        *,
        angles: Any = None,
        q_norm: Handle | None = None,
        k_norm: Handle | None = None,
    ) -> tuple[Array, KV]:
        """`prepare`, then `attend`: [T, H*D] -> [T, H*Dv], kv."""
        q, kv = self.prepare(q, k, v, kv, batch, layer, angles=angles, q_norm=q_norm, k_norm=k_norm)
        return self.attend(q, kv, batch, layer), kv
