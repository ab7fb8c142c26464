from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# Collected by test_interpreted.py alone, in a process where Triton was told to interpret before it was imported.
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def as_on_a_card() -> Iterator[None]:
    """A card runs a kernel's programs in any order, and hands out memory that holds anything: here they run last to
    first, and new memory holds NaN, or the largest whole number."""
    from triton.runtime.interpreter import interpreter_builder as builder

    in_order = builder.set_grid_idx
    builder.set_grid_idx = lambda *at: in_order(*(n - 1 - i for n, i in zip(builder.grid_dim, at, strict=True)))
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    builder.set_grid_idx = in_order
