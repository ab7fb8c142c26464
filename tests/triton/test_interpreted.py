"""Runs the tests of `interpreted` in a process of its own: Triton reads TRITON_INTERPRET once, when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = 600
"""Seconds, for a machine that others use too."""


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 60)
def test_the_kernels_on_the_host():
    pytest.importorskip("triton", reason="there is no Triton for this machine")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", HERE / "interpreted")
    done = subprocess.run(
        command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
