"""Recording a step once and replaying it: one call of the driver starts all its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

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


class TorchGraphs:
    """Of torch's builds for CUDA and ROCm. All graphs share one pool of memory: they never run at the same time, and
    what one leaves is copied to the host before the next is queued."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def record(self, call: Callable[[], T]) -> tuple[Graph, T]:
        call()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        self._stream = self._stream or torch.cuda.Stream()  # torch's own is of the first device that recorded
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = call()
        return graph, result
