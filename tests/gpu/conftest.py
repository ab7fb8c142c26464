from __future__ import annotations

from importlib.util import find_spec

import pytest

# Triton has no wheels for some machines.
collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]


@pytest.fixture(autouse=True)
def processes_find_the_platforms(inherited_path: None) -> None:
    """They are tested from their sources."""
