"""How torch's graphs are recorded, with a fake of torch's."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from anychip_sdk.kits.triton import TorchGraphs


@pytest.fixture
def pools(monkeypatch):
    """The pool of each recording."""
    used, handles, streams = [], iter(range(100)), ["the device's own"]

    class Graph:
        replays = 0

        def replay(self):
            self.replays += 1

    @contextmanager
    def graph(made, pool, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        used.append(pool)
        streams.append(stream)
        yield
        streams.pop()  # not where the call raised: torch's own then raises where the recording ends

    @contextmanager
    def stream(chosen):
        depth = len(streams)
        streams.append(chosen)
        try:
            yield
        finally:
            del streams[depth:]

    fakes = {
        "CUDAGraph": Graph, "Stream": object, "graph": graph, "graph_pool_handle": lambda: next(handles),
        "stream": stream, "current_stream": lambda: streams[-1],
    }  # fmt: skip
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


def test_a_recording_that_fails_leaves_the_stream_as_it_was(pools):
    def failing():
        if pools:  # recorded, not run as it is
            raise RuntimeError("operation not permitted when stream is capturing")

    graphs = TorchGraphs()
    with pytest.raises(RuntimeError, match="capturing"):
        graphs.record(failing)
    assert torch.cuda.current_stream() == "the device's own"
    graphs.record(lambda: None)
    assert pools == [0, 1]  # nothing lives in the first
