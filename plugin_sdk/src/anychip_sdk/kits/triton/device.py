"""A torch device that records its decoding steps: graphs over static buffers, and eager steps for everything else."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.errors import TritonError

from anychip_sdk.contract import (
    Bucket,
    Capabilities,
    Communicator,
    Compiled,
    DeviceError,
    DeviceInfo,
    DType,
    KVDType,
    OutOfMemory,
    Sampled,
    SampleKind,
    Shapes,
    Step,
    StepKey,
    view,
    words,
)
from anychip_sdk.kits.torch import TorchDevice
from anychip_sdk.kits.torch.allocator import PAGE_SIZES
from anychip_sdk.kits.torch.device import TorchPending, as_contract_error
from anychip_sdk.kits.triton.allocator import TritonAllocator
from anychip_sdk.kits.triton.buckets import decode_bucket
from anychip_sdk.kits.triton.graphs import Graph, Graphs
from anychip_sdk.kits.triton.launch import Launcher
from anychip_sdk.kits.triton.uploads import CopyStream, Uploads

DTYPES: tuple[DType, ...] = ("bfloat16", "float16", "float32")
KV_DTYPES: tuple[KVDType, ...] = (*DTYPES, "int8", "fp8")
ALTERNATIVES = (0, 1, 2, 5, 10, 20)
"""How many logprobs beside a token's there are programs for: each is compiled when it first comes."""


class TritonDevice(TorchDevice):
    """A platform sets `ops`. Everything is queued on the current stream, so a step's uploads, kernels and copies to the
    host keep their order, and the host waits only in `Pending.get`."""

    def __init__(
        self,
        info: DeviceInfo,
        device: torch.device | str,
        graphs: Graphs,
        communicator: Communicator | None = None,
        copies: CopyStream | None = None,
    ) -> None:
        """copies: what weights are brought over by; None where the device shares the host's memory."""
        claims = Capabilities(
            weight_dtypes=DTYPES,
            kv_dtypes=KV_DTYPES,
            page_sizes=PAGE_SIZES,
            sliding_window=True,
            softcap=True,
            sinks=True,
            moe=True,
            device_feedback=True,
            asynchronous=True,
            max_world_size=1 if communicator is None else communicator.size,
            step_tokens=4096,
        )
        super().__init__(info, claims, device, communicator)
        if copies is not None:
            self._join = Uploads(copies)
        self._graphs = graphs
        self._launcher = Launcher()
        self.allocator = TritonAllocator(self._launcher, self._device, KV_DTYPES)

    def bucket(self, exact: Bucket) -> Bucket:
        return decode_bucket(exact) or exact

    def sample_kind(self, exact: SampleKind) -> SampleKind:
        most = next((n for n in ALTERNATIVES if n >= (exact.logprobs or 0)), exact.logprobs)
        return exact if exact.logprobs is None else replace(exact, logprobs=most)

    def lend(self, words: int) -> np.ndarray:
        """In pinned memory, so that its upload need not be waited for. torch's allocator of such memory keeps what is
        given back, and gives it out again once the copy that used it is done."""
        try:
            buffer = torch.zeros(words, dtype=torch.int32, pin_memory=self._device.type != "cpu")
        except RuntimeError as error:
            raise OutOfMemory(f"no pinned memory for {4 * words} bytes: {str(error).splitlines()[0]}") from error
        array: np.ndarray = buffer.numpy()
        return array

    def compile(self, step: Step, key: StepKey) -> Compiled:
        shapes = self.ops.attention.plan_shapes(key.bucket)
        run: Recorded | Eager
        run = Recorded(step, key, shapes, self._graphs) if _recordable(key) else Eager(step, key, shapes)

        @torch.inference_mode()
        def launch(weights: Any, kv: Any, state: Any, buffer: np.ndarray) -> tuple[TorchPending, Any, Any]:
            try:
                with self._current():
                    sampled, kv, state = run(weights, kv, state, torch.from_numpy(buffer), self._device)
                    return _Held(sampled, buffer), kv, state
            except TritonError as error:
                raise DeviceError(f"a kernel cannot be made or started: {str(error).splitlines()[0]}") from error
            except (RuntimeError, IndexError, ValueError, MemoryError) as error:
                raise as_contract_error(error) from error

        return launch

    def _current(self) -> AbstractContextManager[Any]:
        """Steps may be launched from another thread than the one that opened the device."""
        return nullcontext() if self._device.type == "cpu" else torch.cuda.device(self._device)


def _recordable(key: StepKey) -> bool:
    """Decoding steps of our own shapes. Those with lists of edits or penalties, or with logprobs, come in too many
    shapes to record each."""
    plain = not key.sample.edits and not key.sample.penalties and key.sample.logprobs is None
    return plain and decode_bucket(key.bucket) == key.bucket


class _Held(TorchPending):
    """Keeps the lent buffer until the step is done. Results are always copied: the next replay writes them again."""

    def __init__(self, sampled: Sampled, buffer: np.ndarray) -> None:
        super().__init__(sampled)
        self._buffer = buffer

    @staticmethod
    def _queue(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type != "cpu")
        return host.copy_(value, non_blocking=True)


class Eager:
    """Runs a step op by op, at exact shapes."""

    def __init__(self, step: Step, key: StepKey, shapes: Shapes) -> None:
        self._step, self._key, self._shapes = step, key, shapes

    def __call__(
        self, weights: Any, kv: Any, state: Any, buffer: Tensor, device: torch.device
    ) -> tuple[Sampled, Any, Any]:
        batch = view(buffer.to(device, non_blocking=True), self._key, self._shapes)
        return self._step(weights, kv, state, batch)


class Recorded:
    """Warms a step up on zeros, which touch scratch only, and records it; each call uploads into the same buffer and
    replays. Another cache, state or set of weights than those recorded is recorded anew."""

    def __init__(self, step: Step, key: StepKey, shapes: Shapes, graphs: Graphs) -> None:
        self._step, self._key, self._shapes, self._graphs = step, key, shapes, graphs
        self._over: tuple[Any, Any, Any] | None = None
        self._buffer: Tensor | None = None
        self._graph: Graph | None = None
        self._sampled: Sampled | None = None

    def __call__(
        self, weights: Any, kv: Any, state: Any, buffer: Tensor, device: torch.device
    ) -> tuple[Sampled, Any, Any]:
        if self._over is None or any(a is not b for a, b in zip(self._over, (weights, kv, state), strict=True)):
            self._record(weights, kv, state, device)
        assert self._graph is not None
        assert self._buffer is not None
        assert self._sampled is not None
        self._buffer.copy_(buffer, non_blocking=True)
        self._graph.replay()
        return self._sampled, kv, state

    def _record(self, weights: Any, kv: Any, state: Any, device: torch.device) -> None:
        """Raises DeviceError where the step gives back another cache or state: a recording works in place."""
        self._over = self._graph = self._sampled = None
        buffer = torch.zeros(words(self._key, self._shapes), dtype=torch.int32, device=device)

        def call() -> tuple[Sampled, Any, Any]:
            return self._step(weights, kv, state, view(buffer, self._key, self._shapes))

        self._graph, (self._sampled, after, state_after) = self._graphs.record(call)
        if after is not kv or state_after is not state:
            raise DeviceError("the step gave back another KV cache or state; a recorded step works in place")
        self._buffer, self._over = buffer, (weights, kv, state)
