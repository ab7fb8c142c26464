"""Kernels of processors that this one may not be: Arm's under an emulator, AVX-VNNI and AMX on their instructions in
plain C++."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from anychip_cpu import library, native

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "platforms" / "cpu"
CROSS, EMULATOR, ROOT = "aarch64-linux-gnu-g++", "qemu-aarch64", Path("/usr/aarch64-linux-gnu")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def build(folder: Path, *options: str) -> None:
    jobs = str(len(os.sched_getaffinity(0)))
    subprocess.run(["cmake", "-S", SOURCES, "-B", folder, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "-j", jobs], check=True, stdout=subprocess.DEVNULL)


def missing(*programs: str) -> str | None:
    absent = [name for name in programs if shutil.which(name) is None]
    return f"there is no {', '.join(absent)}" if absent else None


def test_arm(tmp_path):
    """Every instruction set that the emulator has, and it has all."""
    reason = missing("cmake", CROSS, EMULATOR)
    if reason:
        pytest.skip(f"{reason} (Debian: apt-get install cmake g++-aarch64-linux-gnu qemu-user)")
    build(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={CROSS}",
        f"-DANYCHIP_CHECK={HERE / 'native' / 'check.cpp'}",
    )
    command = [EMULATOR, "-cpu", "max", "-L", ROOT, tmp_path / "check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [f"{isa}: checked" for isa in ("neon_i8mm", "neon_dotprod", "neon")]


def test_amx_and_avx_vnni_in_plain_cpp(tmp_path):
    """What is left to the processor is the instructions themselves."""
    reason = missing("cmake", "g++")
    if reason or platform.machine() != "x86_64" or "avx512_bf16" not in native.isas():
        pytest.skip(reason or "needs AVX-512 with bfloat16 for the rest of the kernels")
    build(tmp_path, f"-DANYCHIP_EMULATE={HERE / 'native'}")
    known = {**os.environ, library.BUILT: str(tmp_path / "_kernels.so")}
    script = "import torch; from anychip_cpu import native; print(*native.isas())"
    found = subprocess.run([sys.executable, "-c", script], env=known, check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["amx", "avx2_vnni"]
    tests = [HERE / f"test_{name}.py" for name in ("linear", "linear_int", "moe", "screened", "screened_int")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, check=False, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
