"""Where kernel calls go: they run at once, and into the recording of a step while one is made."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Structure
from typing import Any, Protocol

import torch
from torch import Tensor

from anychip_cpu.native import Reads, run

LINE, CONFLICT = 64, 512
"""Bytes of a cache's line, and between rows that would share few of its sets."""


class Recorder(Protocol):
    """What a step that is recorded adds to a call."""

    def run(self, kernel: int, arguments: Structure, reads: Reads | None) -> None: ...
    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor | None) -> Tensor: ...
    def live(self, x: Tensor) -> int: ...
    def kit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


class Launcher:
    """What ops ask for memory and hand their kernels to."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None

    def run(self, kernel: int, arguments: Structure, reads: Reads | None = None) -> None:
        """What `arguments` points to must live until this returns."""
        if self.recorder is not None:
            self.recorder.run(kernel, arguments, reads)
        else:
            run(kernel, arguments, torch.get_num_threads())

    def empty(
        self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, like: Tensor | None = None
    ) -> Tensor:
        """Memory for a kernel to write. like: a tensor with the same rows; None where it has no rows of the batch."""
        return torch.empty(shape, dtype=dtype) if self.recorder is None else self.recorder.empty(shape, dtype, like)

    def empty_input(self, shape: tuple[int, int], dtype: torch.dtype, *, like: Tensor | None = None) -> Tensor:
        """Memory for what a product will read: it takes the same place of a dozen rows at a time, and where those lie a
        power of two apart the first-level cache has lines for few of them. So such rows lie a line further apart."""
        rows, size = shape
        near = size * dtype.itemsize % CONFLICT == 0
        return self.empty((rows, size + near * (LINE // dtype.itemsize)), dtype, like=like)[:, :size]

    def live(self, x: Tensor) -> int | None:
        """The address of the number of rows of x that are real; None: all."""
        return None if self.recorder is None else self.recorder.live(x)

    def kit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What torch computes, where there is no kernel. Its rows are those of its last tensor with rows."""
        recorder = self.recorder
        if recorder is None:
            return function(*args, **kwargs)
        self.recorder = None  # what the function calls runs at once, and again in every replay
        try:
            return recorder.kit(function, args, kwargs)
        finally:
            self.recorder = recorder

    def dense(self, x: Tensor) -> Tensor:
        return x if x.is_contiguous() else self.kit(Tensor.contiguous, x)

    def rows(self, x: Tensor) -> Tensor:
        """x: [T, N], copied unless its rows are dense."""
        return x if x.stride(-1) == 1 or x.shape[-1] == 1 else self.kit(Tensor.contiguous, x)
