"""The device `numpy`: weights, pages and steps in the process's own memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip_sdk.contract import (
    Allocator,
    Capabilities,
    Compiled,
    Device,
    DeviceInfo,
    DType,
    KVLayout,
    KVSpec,
    Memory,
    NotSupported,
    OutOfMemory,
    Reader,
    Sampled,
    Step,
    StepKey,
    WeightSpec,
    view,
)
from anychip_sdk.kits.host import host_memory
from anychip_sdk.kits.numpy.math import Weight
from anychip_sdk.kits.numpy.ops import NumpyOps
from anychip_sdk.kits.paging import plan_pages
from anychip_sdk.kits.solo import Solo
from anychip_sdk.kits.weights import read_bias, read_parts

DTYPES: tuple[DType, ...] = ("float32", "float64")
PAGE_SIZES = tuple(2**n for n in range(9))
KV = list[tuple[np.ndarray, np.ndarray]]


class NumpyAllocator(Allocator):
    def memory(self) -> Memory:
        return host_memory()

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        size = 16 if page_size is None else page_size
        if size not in PAGE_SIZES:
            raise NotSupported(f"numpy has no pages of {size} tokens; use a power of two from 1 to {PAGE_SIZES[-1]}")
        return plan_pages(spec, budget=budget, page_size=size, max_len=max_len, slots=slots)

    def allocate(self, layout: KVLayout) -> KV:
        spec = layout.spec
        try:
            return [
                (
                    np.zeros((g.layers, pages, layout.page_size, g.kv_heads, g.k_dim), spec.dtype),
                    np.zeros((g.layers, pages, layout.page_size, g.kv_heads, g.v_dim), spec.dtype),
                )
                for g, pages in zip(spec.groups, layout.pages, strict=True)
            ]
        except MemoryError as error:
            raise OutOfMemory(str(error)) from error

    def free(self, kv: KV) -> None:
        kv.clear()

    def copy_pages(self, kv: KV, group: int, source: np.ndarray, target: np.ndarray) -> KV:
        for cache in kv[group]:
            cache[:, target] = cache[:, source]
        return kv


@dataclass
class NumpyState:
    last_token: np.ndarray  # [slots] int32


@dataclass(frozen=True)
class Done:
    """A result that is there already."""

    sampled: Sampled

    def get(self) -> Sampled:
        return self.sampled


class NumpyDevice(Device):
    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self.capabilities = Capabilities(
            weight_dtypes=DTYPES,
            kv_dtypes=DTYPES,
            page_sizes=PAGE_SIZES,
            sliding_window=True,
            softcap=True,
            moe=True,
            device_feedback=True,
        )
        self.ops = NumpyOps()
        self.allocator = NumpyAllocator()
        self.communicator = Solo()

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        if dtype not in DTYPES:
            raise NotSupported(f"numpy computes in {' or '.join(DTYPES)}, not {dtype}")
        if spec.const is not None:
            return Weight(spec.const.astype(dtype))
        parts = [part.astype(dtype) for part in read_parts(spec, read, shapes)]
        sizes = tuple(part.shape[-2] if part.ndim > 1 else len(part) for part in parts)
        array = np.concatenate(parts, axis=-2 if parts[0].ndim > 1 else 0)
        bias = [b.astype(dtype) for b in read_bias(spec, read, shapes)]
        return Weight(array + array.dtype.type(spec.offset), sizes, np.concatenate(bias) if bias else None)

    def state(self, slots: int) -> NumpyState:
        return NumpyState(np.zeros(slots, np.int32))

    def lend(self, words: int) -> np.ndarray:
        return np.zeros(words, np.int32)

    def compile(self, step: Step, key: StepKey) -> Compiled:
        plan_shapes = self.ops.attention.plan_shapes(key.bucket)

        def run(weights: Any, kv: Any, state: Any, buffer: np.ndarray) -> tuple[Done, Any, Any]:
            sampled, kv, state = step(weights, kv, state, view(buffer, key, plan_shapes))
            return Done(sampled), kv, state

        return run

    def close(self) -> None:
        return None
