"""A plugin that is different wherever the contract lets it be: pages of 128 tokens only, buckets of powers of two, no
sampling, no windows, no softcap, no experts, no fed tokens, one dtype, narrow heads. It records nothing: a step is
called. It takes places as int32 and as nothing wider."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anychip_sdk.contract import (
    AttentionSpec,
    Bucket,
    Capabilities,
    ContractError,
    DeviceError,
    DeviceInfo,
    Found,
    KVLayout,
    KVSpec,
    Manifest,
    NotSupported,
    Platform,
)
from anychip_sdk.kits.numpy import NumpyAllocator, NumpyAttention, NumpyDevice, NumpyOps

INFO = DeviceInfo(name="odd", description="numpy, held back", details={})
PAGE = 128


def manifest() -> Manifest:
    return Manifest(name="odd", platform="odd:OddPlatform", summary="as odd as the contract allows", rank=0)


class OddAttention(NumpyAttention):
    def write(self, k, v, kv, batch, layer):
        if batch.slot_mapping.dtype != np.int32:
            raise ContractError(f"slots came as {batch.slot_mapping.dtype}; the contract says int32")
        return super().write(k, v, kv, batch, layer)

    def supports(self, spec: AttentionSpec) -> None:
        if spec.window is not None or spec.softcap is not None or spec.head_dim > 128:
            raise NotSupported("plain attention with heads of up to 128 only")


class OddAllocator(NumpyAllocator):
    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        if page_size not in (None, PAGE) or spec.dtype != "float32":
            raise NotSupported(f"pages of {PAGE} tokens in float32 only")
        return super().layout(spec, budget=budget, page_size=PAGE, max_len=max_len, slots=slots)


class OddOps(NumpyOps):
    def __init__(self) -> None:
        self.attention = OddAttention()

    def moe(self, x, router, gate_up, down, spec, batch):
        raise NotSupported("no experts")

    def feed(self, batch, state):
        raise NotSupported("tokens come from the host")

    def sample(self, logits, batch, state):
        raise NotSupported("the host samples")


class OddDevice(NumpyDevice):
    def __init__(self) -> None:
        super().__init__(INFO)
        self.capabilities = Capabilities(
            weight_dtypes=("float32",), kv_dtypes=("float32",), page_sizes=(PAGE,), max_head_dim=128, max_logprobs=3,
            sampling=False,
        )  # fmt: skip
        self.ops, self.allocator = OddOps(), OddAllocator()

    def pack(self, spec, read, shapes, dtype):
        if dtype != "float32":
            raise NotSupported("float32 only")
        return super().pack(spec, read, shapes, dtype)

    def bucket(self, exact: Bucket) -> Bucket:
        tokens, seqs, pages, rows = (1 << max(0, n - 1).bit_length() for n in exact_sizes(exact))
        tokens = max(tokens, seqs) if exact.decode else tokens
        return replace(exact, tokens=tokens, seqs=seqs, pages=pages, rows=rows)


def exact_sizes(b: Bucket) -> tuple[int, int, int, int]:
    return b.tokens, b.seqs, b.pages, b.rows


class OddPlatform(Platform):
    def probe(self) -> Found:
        return Found((INFO,))

    def open(self, index: int = 0, *, threads: int | None = None) -> OddDevice:
        if index:
            raise DeviceError(f"there is no device odd:{index}")
        return OddDevice()
