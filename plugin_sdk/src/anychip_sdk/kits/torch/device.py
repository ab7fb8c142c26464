"""A torch device that runs steps eagerly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anychip_sdk.contract import (
    Capabilities,
    Communicator,
    Compiled,
    Device,
    DeviceError,
    DeviceInfo,
    DType,
    NotSupported,
    OutOfMemory,
    Reader,
    Sampled,
    Step,
    StepKey,
    WeightSpec,
    view,
)
from anychip_sdk.kits.solo import Solo
from anychip_sdk.kits.torch.allocator import TorchAllocator
from anychip_sdk.kits.torch.ops import TorchOps
from anychip_sdk.kits.torch.weights import Join, Weight, join, pack


@dataclass
class TorchState:
    last_token: Tensor  # [slots] int32


class TorchPending:
    """Device results whose copy to the host has been queued."""

    def __init__(self, sampled: Sampled) -> None:
        self._host = {name: self._queue(value) for name, value in vars(sampled).items()}
        device = sampled.tokens.device
        self._done = None if device.type == "cpu" else torch.Event(device=device)
        if self._done is not None:
            self._done.record()

    @staticmethod
    def _queue(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to("cpu", non_blocking=True)

    def get(self) -> Sampled:
        try:
            if self._done is not None:
                self._done.synchronize()
            return Sampled(**{name: None if t is None else t.numpy() for name, t in self._host.items()})
        except RuntimeError as error:
            raise as_contract_error(error) from error


_NO_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED")
"""What those say who have no error class for it: the host's allocator, a driver asked for a graph, a kernel's code or
pinned memory, and the libraries of products."""


def as_contract_error(error: Exception) -> DeviceError:
    """What torch raised, as the contract names it: OutOfMemory, or DeviceError with torch's first line."""
    line = (str(error).splitlines() or ["no message"])[0]
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in line for said in _NO_MEMORY):
        return OutOfMemory(f"no memory for the step: {line}")
    return DeviceError(f"the step failed: {line}")


class TorchDevice(Device):
    """Subclass it, set `info` and `capabilities`, and replace `ops` or `allocator` by what the chip does better."""

    def __init__(
        self,
        info: DeviceInfo,
        capabilities: Capabilities,
        device: torch.device | str,
        communicator: Communicator | None = None,
    ) -> None:
        self.info = info
        self.capabilities = capabilities
        self._device = torch.device(device)
        self._join: Join = join
        self.communicator = communicator or Solo()
        self.rank, self.size = self.communicator.rank, self.communicator.size
        self.ops = TorchOps(self.communicator)
        self.allocator = TorchAllocator(self._device, capabilities.kv_dtypes, capabilities.page_sizes)

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        if dtype not in self.capabilities.weight_dtypes:
            raise NotSupported(f"{self.info.name} has no {dtype}; use {', '.join(self.capabilities.weight_dtypes)}")
        try:
            return pack(spec, read, shapes, dtype, self._device, self.rank, self.size, self._join)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(f"no memory for a weight: {str(error).splitlines()[0]}") from error

    def state(self, slots: int) -> TorchState:
        return TorchState(torch.zeros(slots, dtype=torch.int32, device=self._device))

    def lend(self, words: int) -> np.ndarray:
        return np.zeros(words, np.int32)

    def compile(self, step: Step, key: StepKey) -> Compiled:
        plan_shapes = self.ops.attention.plan_shapes(key.bucket)

        @torch.inference_mode()
        def run(weights: Any, kv: Any, state: Any, buffer: np.ndarray) -> tuple[TorchPending, Any, Any]:
            try:
                # On the CPU this shares the lent buffer, which nobody writes again: every step is lent a new one.
                batch = view(torch.from_numpy(buffer).to(self._device), key, plan_shapes)
                sampled, kv, state = step(weights, kv, state, batch)
                return TorchPending(sampled), kv, state
            except (RuntimeError, IndexError, ValueError, MemoryError) as error:
                raise as_contract_error(error) from error

        return run

    def close(self) -> None:
        return None
