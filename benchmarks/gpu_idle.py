"""How long a card waits for the host between the steps it replays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import nan
from typing import Any

import torch
from anychip_sdk.kits.triton import TorchGraphs

SETTLED = 8
"""Replays that are passed over at first: some follow a prompt, whose step is no replay."""


class Timed:
    """A graph between two events."""

    def __init__(self, graph: Any, spans: list[tuple[Any, Any]]) -> None:
        self._graph, self._spans = graph, spans

    def replay(self) -> None:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self._graph.replay()
        end.record()
        self._spans.append((start, end))


@contextmanager
def watched() -> Iterator[list[tuple[Any, Any]]]:
    """-> the start and end of every replay of a step that is recorded meanwhile. Clear the list before what is to be
    measured."""
    spans: list[tuple[Any, Any]] = []
    right: Callable[..., Any] = TorchGraphs.record

    def record(self: TorchGraphs, call: Callable[[], Any]) -> Any:
        graph, result = right(self, call)
        return Timed(graph, spans), result

    TorchGraphs.record = record  # type: ignore[method-assign]
    try:
        yield spans
    finally:
        TorchGraphs.record = right  # type: ignore[method-assign]


def idle(spans: list[tuple[Any, Any]]) -> float:
    """The share of the time from the first replay's start to the last one's end that lies between replays: uploads,
    copies to the host, and waiting. NaN where there were too few."""
    steady = spans[SETTLED:]
    if len(steady) < 2:
        return nan
    torch.cuda.synchronize()
    between = sum(before[1].elapsed_time(after[0]) for before, after in pairwise(steady))
    return float(between / steady[0][0].elapsed_time(steady[-1][1]))
