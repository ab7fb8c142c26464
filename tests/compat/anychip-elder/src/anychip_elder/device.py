"""Weights, pages and steps in the process's own memory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from anychip_sdk.contract import (
    Allocator,
    Bucket,
    Capabilities,
    Communicator,
    Compiled,
    ContractError,
    Device,
    DeviceError,
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

from anychip_elder.ops import ElderOps, Parts

PAGE = 16


@dataclass
class State:
    last_token: Any


@dataclass
class Done:
    sampled: Sampled

    def get(self) -> Sampled:
        return self.sampled


class ElderAllocator(Allocator):
    def memory(self) -> Memory:
        page = os.sysconf("SC_PAGE_SIZE")
        return Memory(free=os.sysconf("SC_AVPHYS_PAGES") * page, total=os.sysconf("SC_PHYS_PAGES") * page)

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        if page_size not in (None, PAGE) or spec.dtype != "float32":
            raise NotSupported(f"elder has pages of {PAGE} tokens in float32; asked for {page_size} in {spec.dtype}")
        cost = sum(spec.page_bytes(g, PAGE) for g in range(len(spec.groups)))
        pages = min(budget // cost, 1 + max(1, slots - 1) * -(-max_len // PAGE))
        if pages < 2:
            raise OutOfMemory(f"{budget} bytes do not hold two KV pages; give at least {2 * cost}")
        return KVLayout(spec, PAGE, (pages,) * len(spec.groups), slots)

    def allocate(self, layout: KVLayout) -> Any:
        try:
            return [
                [np.zeros((g.layers, pages, PAGE, g.kv_heads, dim), np.float32) for dim in (g.k_dim, g.v_dim)]
                for g, pages in zip(layout.spec.groups, layout.pages, strict=True)
            ]
        except (MemoryError, ValueError) as error:
            raise OutOfMemory(f"no memory for {layout.pages} pages: {error}") from error

    def free(self, kv: Any) -> None:
        kv.clear()

    def copy_pages(self, kv: Any, group: int, source: Any, target: Any) -> Any:
        for cache in kv[group]:
            cache[:, target] = cache[:, source]
        return kv


class Alone(Communicator):
    rank = 0
    size = 1

    def all_reduce(self, x: Any) -> Any:
        return x

    def all_gather(self, x: Any, axis: int) -> Any:
        return x

    def reduce_scatter(self, x: Any, axis: int) -> Any:
        return x

    def all_to_all(self, x: Any, axis: int) -> Any:
        return x

    def broadcast(self, x: Any, source: int) -> Any:
        return x if source == 0 else self._nobody(source)

    def send(self, x: Any, to: int) -> None:
        self._nobody(to)

    def receive(self, like: Any, source: int) -> Any:
        self._nobody(source)

    def barrier(self) -> None:
        return None

    def _nobody(self, rank: int) -> None:
        raise ContractError(f"there is no rank {rank}: the group has one")


class ElderDevice(Device):
    def __init__(self, info: DeviceInfo) -> None:
        self.info = info
        self.capabilities = Capabilities(weight_dtypes=("float32",), kv_dtypes=("float32",), page_sizes=(PAGE,))
        self.ops, self.allocator, self.communicator = ElderOps(), ElderAllocator(), Alone()

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Parts:
        if dtype != "float32" or spec.kind == "experts":
            raise NotSupported(f"elder packs float32 and no experts; asked for {dtype} of kind {spec.kind}")
        if spec.const is not None:
            return Parts((spec.const.astype(np.float32),))
        names = [name for part in spec.parts for name in part]
        missing = [name for name in (*names, *spec.bias) if name not in shapes]
        if missing:
            raise ContractError(f"the checkpoint has no tensor {missing[0]!r}")
        if len({shapes[name][1:] for name in names}) > 1:
            raise ContractError(f"{names} cannot be parts of one weight: their shapes do not agree")
        parts = tuple(read(name).astype(np.float32) + np.float32(spec.offset) for name in names)
        return Parts(parts, tuple(read(name).astype(np.float32) for name in spec.bias))

    def state(self, slots: int) -> State:
        return State(np.zeros(slots, np.int32))

    def bucket(self, exact: Bucket) -> Bucket:
        return exact

    def lend(self, words: int) -> Any:
        return np.zeros(words, np.int32)

    def compile(self, step: Step, key: StepKey) -> Compiled:
        def run(weights: Any, kv: Any, state: Any, buffer: Any) -> tuple[Done, Any, Any]:
            try:
                with np.errstate(all="ignore"):
                    sampled, kv, state = step(weights, kv, state, view(buffer, key))
            except MemoryError as error:
                raise OutOfMemory(f"no memory for the step: {error}") from error
            except (IndexError, ValueError) as error:
                raise DeviceError(f"the step failed: {error}") from error
            return Done(sampled), kv, state

        return run

    def close(self) -> None:
        return None
