"""A device that owns the whole step, as a compiler would: it takes the weight tree once and a buffer a step. Its
graph is the model's own forward over the numpy kit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from anychip.models import decoder
from anychip_sdk.contract import (
    Bucket,
    Capabilities,
    DeviceError,
    DeviceInfo,
    DType,
    KVLayout,
    KVSpec,
    Memory,
    NotSupported,
    OutOfMemory,
    Reader,
    StepKey,
    StepPlugin,
    WeightSpec,
    view,
)
from anychip_sdk.kits.done import Done
from anychip_sdk.kits.numpy import NumpyDevice

INFO = DeviceInfo(name="graph", description="whole steps", details={})


class WholeSteps(StepPlugin):
    """architectures: what it can load. pages: what it can keep. It runs decodes of a power of two of sequences."""

    def __init__(self, architectures: tuple[str, ...] = ("LlamaForCausalLM",), pages: int = 10**6) -> None:
        self.info = INFO
        self.capabilities = Capabilities(weight_dtypes=("float32",), kv_dtypes=("float32",), page_sizes=(16,))
        self._architectures, self._pages = architectures, pages
        self._device = NumpyDevice(INFO)
        self._fail_in = -1
        self._ran: list[StepKey] = []
        self._copied = self._closed = 0

    def memory(self) -> Memory:
        return self._device.allocator.memory()

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        return self._device.allocator.layout(spec, budget=budget, page_size=page_size, max_len=max_len, slots=slots)

    def load(self, spec: Any, weights: Any, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> None:
        if spec.architecture not in self._architectures:
            raise NotSupported(f"it has no graph of {spec.architecture}; it has {', '.join(self._architectures)}")

        def pack(tree: Any) -> Any:
            if isinstance(tree, WeightSpec):
                return self._device.pack(tree, read, shapes, dtype)
            return {k: pack(v) for k, v in tree.items()} if isinstance(tree, dict) else [pack(v) for v in tree]

        self._spec, self._weights = spec, pack({k: v for k, v in weights.items() if k != "layers"})
        self._weights["layers"] = self._device.pack_layers(spec.layers, weights["layers"], read, shapes, dtype)

    def allocate(self, layout: KVLayout) -> None:
        if max(layout.pages) > self._pages:
            raise OutOfMemory(f"no memory for {max(layout.pages)} pages")
        self._kv = self._device.allocator.allocate(layout)

    def copy_pages(self, group: int, source: np.ndarray, target: np.ndarray) -> None:
        self._copied += len(source)
        self._kv = self._device.allocator.copy_pages(self._kv, group, source, target)

    def bucket(self, exact: Bucket) -> Bucket:
        if not exact.decode:
            return exact
        seqs = 1 << (exact.seqs - 1).bit_length()
        return Bucket(seqs, seqs, exact.pages, seqs, True, exact.groups)

    def lend(self, words: int) -> np.ndarray:
        return np.zeros(words, np.int32)

    def run(self, key: StepKey, buffer: np.ndarray) -> Done:
        self._ran.append(key)
        self._fail_in -= 1
        if self._fail_in == 0:
            raise DeviceError("the graph fell over")
        ops, batch = self._device.ops, view(buffer, key)
        logits, self._kv = decoder.forward(ops, self._spec, self._weights, ops.attention.begin(batch), self._kv)
        return Done(ops.sample(logits, batch, self._device.state(int(batch.row_slot.max(initial=0)) + 1))[0])

    def close(self) -> None:
        self._closed += 1
