"""The way of weights to a card: from the file into pinned memory, slice by slice, and over on a stream of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

SLICE = 16 * 2**20
"""Bytes of a pinned buffer. While one is copied to the card, the next is filled."""
BUFFERS = 3


class Copied(Protocol):
    """A copy that was queued."""

    def synchronize(self) -> None:
        """Returns when it is done."""


class CopyStream(Protocol):
    """A queue of copies beside the device's own work."""

    def buffer(self, size: int) -> Tensor:
        """[size] uint8 on the host, from which copies need not be waited for."""

    def begin(self) -> None:
        """What is queued from now on comes after the device's own work so far, whose memory may be used again."""

    def copy(self, target: Tensor, source: Tensor) -> Copied: ...

    def end(self) -> None:
        """The device's own work that is queued from now on comes after every copy so far."""


class TorchCopyStream:
    """Of torch's builds for CUDA and ROCm."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None

    def buffer(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def begin(self) -> None:
        self._stream = self._stream or torch.cuda.Stream(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, target: Tensor, source: Tensor) -> Copied:
        done = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            done.record(self._stream)
        return done

    def end(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


class Uploads:
    """Makes tensors on a card; see `kits.torch.weights.Join`. Values of another dtype are converted there."""

    def __init__(self, stream: CopyStream, size: int = SLICE) -> None:
        self._stream, self._size = stream, size
        self._buffers: list[tuple[Tensor, Copied | None]] = []
        self._next = 0

    def __call__(self, arrays: Sequence[np.ndarray], dtype: torch.dtype, device: torch.device) -> Tensor:
        target = torch.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), dtype=dtype, device=device)
        start = 0
        for array in arrays:
            part = target[start : start + len(array)]
            start += len(array)
            kept = _dtype_of(array)
            if kept == dtype:
                self._send(array, part)
            else:
                raw = torch.empty(array.shape, dtype=kept, device=device)
                self._send(array, raw)
                part.copy_(raw)
        return target

    def _send(self, array: np.ndarray, target: Tensor) -> None:
        source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        to = target.view(-1).view(torch.uint8)
        self._stream.begin()
        for start in range(0, len(source), self._size):
            part = source[start : start + self._size]
            buffer = self._free_buffer()[: len(part)]
            np.copyto(buffer.numpy(), part)
            copied = self._stream.copy(to[start : start + len(part)], buffer)
            self._buffers[self._next] = self._buffers[self._next][0], copied
            self._next = (self._next + 1) % BUFFERS
        self._stream.end()

    def _free_buffer(self) -> Tensor:
        """The next buffer, once the copy that it was last used for is done."""
        if len(self._buffers) <= self._next:
            self._buffers.append((self._stream.buffer(self._size), None))
        buffer, copied = self._buffers[self._next]
        if copied is not None:
            copied.synchronize()
        return buffer


def _dtype_of(array: np.ndarray) -> torch.dtype:
    if array.dtype.name == "bfloat16":
        return torch.bfloat16
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
