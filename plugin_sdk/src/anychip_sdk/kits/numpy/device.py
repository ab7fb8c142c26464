"""The device `numpy`: weights, pages and steps in the process's own memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from anychip_sdk.contract import (
    Capabilities,
    Compiled,
    Device,
    DeviceError,
    DeviceInfo,
    DType,
    NotSupported,
    OutOfMemory,
    Reader,
    Step,
    StepKey,
    WeightSpec,
    view,
)
from anychip_sdk.kits.done import Done
from anychip_sdk.kits.numpy.allocator import DTYPES, KV_DTYPES, PAGE_SIZES, NumpyAllocator
from anychip_sdk.kits.numpy.ops import NumpyOps
from anychip_sdk.kits.numpy.weights import Weight, pack
from anychip_sdk.kits.solo import Solo


@dataclass
class NumpyState:
    last_token: np.ndarray  # [slots] int32


CAPABILITIES: Final = Capabilities(
    weight_dtypes=DTYPES,
    kv_dtypes=KV_DTYPES,
    page_sizes=PAGE_SIZES,
    sliding_window=True,
    softcap=True,
    sinks=True,
    moe=True,
    device_feedback=True,
)
"""All that the kit has."""


class NumpyDevice(Device):
    """Subclass it, and replace `ops` or `allocator` by what the chip does better."""

    def __init__(self, info: DeviceInfo, capabilities: Capabilities = CAPABILITIES) -> None:
        """capabilities: less than the kit's where the ops put in place of its own can do less."""
        self.info = info
        self.capabilities = capabilities
        self.ops = NumpyOps()
        self.allocator = NumpyAllocator(capabilities.kv_dtypes, capabilities.page_sizes)
        self.communicator = Solo()

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        known = self.capabilities.weight_dtypes
        if dtype not in known:
            raise NotSupported(f"{self.info.name} does not compute in {dtype}; use {' or '.join(known)}")
        try:
            return pack(spec, read, shapes, dtype)
        except MemoryError as error:
            raise OutOfMemory(f"no memory for a weight: {error}") from error

    def state(self, slots: int) -> NumpyState:
        return NumpyState(np.zeros(slots, np.int32))

    def lend(self, words: int) -> np.ndarray:
        return np.zeros(words, np.int32)

    def compile(self, step: Step, key: StepKey) -> Compiled:
        """The step is run when it is called; a failure of numpy in it is a DeviceError then and there."""
        plan_shapes = self.ops.attention.plan_shapes(key.bucket)

        def run(weights: Any, kv: Any, state: Any, buffer: np.ndarray) -> tuple[Done, Any, Any]:
            batch = view(buffer, key, plan_shapes)
            try:
                with np.errstate(all="ignore"):  # NaN and infinity are values here: `sample` reports them
                    sampled, kv, state = step(weights, kv, state, batch)
            except MemoryError as error:
                raise OutOfMemory(f"no memory for the step: {error}") from error
            except (IndexError, ValueError) as error:
                raise DeviceError(f"the step failed: {error}") from error
            return Done(sampled), kv, state

        return run

    def close(self) -> None:
        return None
