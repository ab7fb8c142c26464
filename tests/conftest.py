from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["ANYCHIP_CACHE"] = "off"  # tests of the cache say where it is to lie
sys.path.insert(0, str(Path(__file__).parent))

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, object]]:
    """family -> (directory, Transformers model), built once a run."""
    import checkpoints

    @cache
    def make(family: str) -> tuple[Path, object]:
        directory = tmp_path_factory.mktemp(family)
        return directory, checkpoints.build(family, directory)

    return make


@pytest.fixture
def inherited_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts find what this one finds, platforms that are not installed among it."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of processes that share a run (pytest-xdist gives each an equal part of the list), every one begins with some of
    the long tests, those with a limit of time of their own: none is left with one when the others have ended."""
    processes = int(getattr(config, "workerinput", {}).get("workercount", 1))
    if processes == 1:
        return
    limits = {item: mark.args[0] for item in items if (mark := item.get_closest_marker("timeout"))}
    long = sorted(limits, key=lambda item: -limits[item])
    short = iter([item for item in items if item not in limits])
    ordered: list[pytest.Item] = []
    for n in range(processes):
        ordered += long[n::processes]
        ordered += islice(short, max(0, len(items) * (n + 1) // processes - len(ordered)))
    items[:] = ordered
