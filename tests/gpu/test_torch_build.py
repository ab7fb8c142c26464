"""Which torch and Triton are installed, read without importing them."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib import metadata

from anychip_sdk.contract import Broken
from anychip_sdk.kits import torch_build as build_files
from anychip_sdk.kits.torch_build import TorchBuild, build_fault, compiler_fault, torch_build, triton_version
from installed import install


def test_the_installed_ones_are_read_and_not_imported():
    build = torch_build()
    assert build is not None
    assert build.version == metadata.version("torch")
    assert triton_version() == metadata.version("triton")
    code = (
        "import sys; from anychip_sdk.kits.torch_build import *; torch_build(); triton_version(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "triton"} & set(done.stdout.split())


def test_what_a_build_is_for(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, torch="2.11.0+cu128", cuda="12.8", triton="3.6.0")
    assert torch_build() == TorchBuild("2.11.0+cu128", "12.8", None)
    assert torch_build().kind == "CUDA"
    assert build_fault("cuda", "install") is None
    install(monkeypatch, tmp_path, torch="2.11.0+rocm7.0", hip="7.0.1", triton="3.6.0")
    assert torch_build().kind == "ROCm"
    assert build_fault("hip", "install") is None


def test_a_file_that_is_no_python_counts_as_not_installed(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, torch="2.11.0", cuda="12.8")
    (tmp_path / "torch/version.py").write_text("<<<<")
    assert torch_build() is None
    (tmp_path / "torch/version.py").unlink()
    assert torch_build() is None


def test_what_triton_compiles_with(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path))
    monkeypatch.setattr(build_files, "which", {"clang": "/usr/bin/clang"}.get)
    monkeypatch.delenv("CC", raising=False)
    header = tmp_path / "Python.h"
    wanted = f"Python's headers are not installed ({header}), which Triton needs"
    assert compiler_fault() == Broken(wanted, "sudo apt install python3-dev")
    header.touch()
    assert compiler_fault() is None
    monkeypatch.setattr(build_files, "which", lambda name: None)
    assert compiler_fault().mend == "sudo apt install gcc"
    monkeypatch.setenv("CC", "cc")
    assert compiler_fault() is None
