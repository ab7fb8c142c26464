from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests of the JAX kit compile far more than they compute."""
    if "jax" not in request.module.__name__:
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
