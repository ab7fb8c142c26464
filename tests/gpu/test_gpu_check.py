"""The command that is run on a card, tried on the cpu in sizes whose figures mean nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).parents[2] / "benchmarks/gpu_check.py"


def check(*options):
    return subprocess.run([sys.executable, CHECK, *options], capture_output=True, text=True, check=False, timeout=250)


def test_a_result_and_a_table_are_written(tmp_path):
    done = check("--device", "cpu", "--small", "--parts", "attention", "memcheck", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    assert result["machine"]["device"] == "cpu"
    found = result["parts"]["attention"]["found"]
    assert found["copy, GB/s"] > 0
    assert any(name.startswith("prefill") for name in found)
    table = (tmp_path / "gpu_check.md").read_text()
    assert table.startswith(f"# {result['machine']['description']}")
    assert "| copy, GB/s | " in table


def test_tokens_are_compared_with_transformers(tmp_path):
    done = check("--device", "cpu", "--small", "--parts", "parity", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu_check.json").read_text())["parts"]["parity"]["found"]
    assert found["float32, equal"] == 6
    assert found["bfloat16, different"] == 0


def test_a_part_that_fails_is_reported(tmp_path):
    done = check("--device", "numpy", "--small", "--parts", "attention", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "attention: failed" in done.stdout
    assert "Failed:" in (tmp_path / "gpu_check.md").read_text()
