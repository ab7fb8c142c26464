"""Recording a step once and replaying it: one call of the driver starts all its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch

T = TypeVar("T")


class Graph(Protocol):
    """A recorded piece of work on fixed memory."""

    def replay(self) -> None:
        """Queues all of it again, on the current stream."""


class Graphs(Protocol):
    """How a device records."""

    def record(self, call: Callable[[], T]) -> tuple[Graph, T]:
        """-> a graph of what `call` queues, and its result, whose tensors every replay writes again. `call` runs twice:
        first as it is, since kernels are compiled and libraries loaded then, and neither can be recorded."""


class TorchGraph:
    """A graph of torch's."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def replay(self) -> None:
        self.graph.replay()


class TorchGraphs:
    """Of torch's builds for CUDA and ROCm. All graphs share one pool of memory: they never run at the same time, and
    what one leaves is copied to the host before the next is queued. A pool that no graph uses any more cannot be
    recorded into again, so that the next graph gets a new one."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None
        self._alive: WeakSet[TorchGraph] = WeakSet()

    def record(self, call: Callable[[], T]) -> tuple[Graph, T]:
        call()
        if not self._alive:
            self._pool = torch.cuda.graph_pool_handle()
        self._stream = self._stream or torch.cuda.Stream()  # torch's own is of the first device that recorded
        made = TorchGraph()
        recording = torch.cuda.graph(
            # Other threads may go on using the device meanwhile.
            made.graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local",
        )  # fmt: skip
        # A recording that fails leaves its stream the current one; the outer context puts back the right one.
        with torch.cuda.stream(torch.cuda.current_stream()), recording:
            result = call()
        self._alive.add(made)
        return made, result
