"""Runs what Triton interprets in processes of their own: it reads TRITON_INTERPRET once, when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from anychip_sdk.conformance.runner import AREA_FILES

HERE = Path(__file__).parent
LIMIT = 600
"""Seconds, for a machine that others use too."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT + 60)]


def interpreted(*options: object) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("triton", reason="there is no Triton for this machine")
    folders = HERE / "interpreted", HERE.parent / "kits"
    environment = os.environ | {
        "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }  # fmt: skip
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options)
    return subprocess.run(
        command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.mark.parametrize("file", sorted(HERE.glob("interpreted/test_*.py")), ids=lambda file: file.stem)
def test_the_kernels_on_the_host(file):
    done = interpreted(file)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_suite_judges_the_kernels_on_the_host():
    """The checks of the profile `sinks`: an area as a whole takes the interpreter too long."""
    done = interpreted(
        AREA_FILES / "test_attention.py", "-c", os.devnull, "--rootdir", AREA_FILES, "-k", "sinks and float32",
        "--anychip-plugin", "interpreted_platform:manifest", "--anychip-tier", "quick",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "8 passed" in done.stdout
