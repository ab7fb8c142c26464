from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # with libtpu installed JAX looks for a TPU first
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def quick_compiler() -> Iterator[None]:
    """These tests compile far more than they compute."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def processes_find_the_platform(inherited_path: None) -> None:
    """It is tested from its sources."""


@pytest.fixture
def no_races(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of kernels in the strict interpreter: JAX makes a new record for every one that runs."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call
    from jax._src.pallas.mosaic.interpret.race_detection_state import RaceDetectionState
    from jax.experimental.pallas import tpu as pltpu

    records: list[RaceDetectionState] = []

    def record(**options: int) -> RaceDetectionState:
        records.append(RaceDetectionState(**options))
        return records[-1]

    monkeypatch.setattr(interpret_pallas_call, "RaceDetectionState", record)
    yield
    pltpu.reset_tpu_interpret_mode_state()
    assert records
    assert not any(r.races_found for r in records)
