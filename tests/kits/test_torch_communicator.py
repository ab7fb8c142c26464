"""Collectives of the torch kit between real processes, over gloo and a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "torch_rank.py"


@pytest.mark.parametrize(
    ("case", "size"),
    [("laws", 2), ("laws", 4), ("mismatches", 2), ("gone", 2), ("tensor_parallel", 2), ("tensor_parallel", 4)],
)
def test_ranks(case, size, tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, SCRIPT, case, str(rank), str(size), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, text in zip(ranks, said, strict=True):
        assert text.endswith("ok\n"), text
        assert rank.returncode == 0
