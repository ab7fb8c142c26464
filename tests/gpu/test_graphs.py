"""How torch's graphs are recorded, with a fake of torch's."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from anychip_sdk.kits.triton import TorchGraphs


@pytest.fixture
def pools(monkeypatch):
    """The pool of each recording."""
    used, handles = [], iter(range(100))

    class Graph:
        replays = 0

        def replay(self):
            self.replays += 1

    @contextmanager
    def graph(made, pool, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        used.append(pool)
        yield

    fakes = {"CUDAGraph": Graph, "Stream": object, "graph": graph, "graph_pool_handle": lambda: next(handles)}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return used


def test_a_call_runs_once_as_it_is_and_once_recorded(pools):
    calls = []
    graph, result = TorchGraphs().record(lambda: calls.append(1) or len(calls))
    assert result == 2
    graph.replay()
    assert graph.graph.replays == 1


def test_graphs_share_a_pool_while_one_of_them_lives(pools):
    graphs = TorchGraphs()
    one, _ = graphs.record(lambda: None)
    two, _ = graphs.record(lambda: None)
    del one
    three, _ = graphs.record(lambda: None)
    del two, three
    _four, _ = graphs.record(lambda: None)
    assert pools == [0, 0, 0, 1]
