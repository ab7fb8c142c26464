"""The command that is run on a card, tried on the cpu in sizes whose figures mean nothing."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[2] / "benchmarks/gpu_check.py"


def check(out, *options, **environment):
    """-> the process, and the result it wrote."""
    command = [sys.executable, CHECK, "--small", "--out", str(out), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=250, env=os.environ | environment
    )
    return done, json.loads((out / "gpu_check.json").read_text())


@pytest.fixture(autouse=True)
def no_server(tmp_path_factory, monkeypatch, inherited_path):
    """What only the server needs is not installed."""
    folder = tmp_path_factory.mktemp("missing")
    for name in ("msgspec", "starlette", "uvicorn"):
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('there is no {name} here')")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}")


@pytest.mark.timeout(300)
def test_a_result_and_a_table_are_written(tmp_path):
    """Without compute-sanitizer, which is said."""
    done, result = check(tmp_path, "--device", "cpu", "--parts", "attention", "memcheck", PATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["machine"]["device"] == "cpu"
    found = result["parts"]["attention"]["found"]
    assert found["copy, GB/s"] > 0
    assert any(name.startswith("prefill") for name in found)
    assert found["decode 4 x 128 in fp8, of the copy"] > 0
    assert result["parts"]["memcheck"]["found"] == {"compute-sanitizer": "not installed, so nothing was checked"}
    table = (tmp_path / "gpu_check.md").read_text()
    assert table.startswith(f"# {result['machine']['description']}")
    assert "| copy, GB/s | " in table


@pytest.mark.timeout(300)
def test_tokens_and_speed_are_compared_with_transformers(tmp_path):
    done, result = check(tmp_path, "--device", "cpu", "--parts", "parity", "models")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(result["parts"]) == ["tiny", "parity"]  # what measures time comes first, and alone
    found = result["parts"]["parity"]["found"]
    assert found["float32, equal"] == 6
    assert found["bfloat16, different"] == 0
    names = result["parts"]["tiny"]["found"].keys()
    assert names >= {"load, s", "x 2, tokens/s", "x 2, of the roofline", "x 2, idle", "x 2, Transformers, tokens/s"}


@pytest.mark.timeout(300)
def test_the_suite_is_run_and_its_areas_are_counted(tmp_path):
    done, result = check(tmp_path, "--device", "numpy", "--parts", "conformance")
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["parts"]["conformance"]["found"]["kv_write"].endswith("0 failed, 0 skipped")


@pytest.mark.timeout(300)
def test_kernels_are_compiled_by_running_checks_that_ask_for_them(tmp_path):
    done, result = check(tmp_path, "--device", "numpy", "--parts", "kernels")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(result["parts"]["kernels"]["found"]) == ["kv_write, float32"]
    ran = (tmp_path / "kernels/0/output.txt").read_text()
    assert " passed" in ran
    assert "failed" not in ran


def test_a_part_that_fails_is_reported(tmp_path):
    done, _ = check(tmp_path, "--device", "numpy", "--parts", "attention")
    assert done.returncode == 1
    assert "attention: failed" in done.stdout
    assert "Failed:" in (tmp_path / "gpu_check.md").read_text()


@pytest.mark.timeout(300)
def test_the_memory_check_runs_under_its_tool(tmp_path):
    """A stand-in that drops its own options and runs the rest."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\nshift 6\nexec "$@"\n')
    tool.chmod(0o755)
    _, result = check(tmp_path, "--device", "cpu", "--parts", "memcheck", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert result["parts"]["memcheck"]["found"] == {"calls of the attention kernels": 12, "memory errors": 0}


def test_parts_without_time_are_named(tmp_path):
    done, result = check(tmp_path, "--device", "cpu", "--parts", "attention", "parity", "--total", "3")
    assert done.returncode == 1
    assert {part["failed"] for part in result["parts"].values()} == {
        "it was not begun: the time for everything was used up"
    }


def test_what_runs_out_of_time_leaves_nothing_behind(tmp_path, monkeypatch):
    """The suite runs each area in a session of its own, which no signal to the command's group reaches."""
    monkeypatch.syspath_prepend(str(CHECK.parent))
    import gpu_check

    child = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    log = tmp_path / "log"
    assert gpu_check.run([sys.executable, "-c", starts], 5, log, {}) == "it did not end within 5 s"
    with suppress(ProcessLookupError):  # it is gone already
        ended = os.pidfd_open(int(log.read_text()))
        assert select.select([ended], [], [], 60)[0]


def test_it_starts_up_where_there_is_no_card():
    done = subprocess.run([sys.executable, CHECK, "--one", "start"], check=False, timeout=250)
    assert done.returncode == 0
