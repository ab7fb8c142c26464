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
