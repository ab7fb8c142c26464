from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
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
