"""Which torch and Triton are installed, read from their files: importing them takes seconds, a probe must be quick."""

from __future__ import annotations

import ast
import os
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Literal

from packaging.version import Version

from anychip_sdk.contract import Broken

OLDEST_TORCH = Version("2.8")
OLDEST_TRITON = Version("3.6")
_BUILDS = {"cuda": "CUDA", "hip": "ROCm"}


@dataclass(frozen=True)
class TorchBuild:
    """`cuda`, `hip`: the version of CUDA or HIP it was built for, or None."""

    version: str
    cuda: str | None
    hip: str | None

    @property
    def kind(self) -> str:
        return "CUDA" if self.cuda else "ROCm" if self.hip else "CPU"


def torch_build() -> TorchBuild | None:
    """None where torch is not installed, or has no version.py as its releases do."""
    found = _constants("torch", "version.py")
    version = found.get("__version__")
    return None if version is None else TorchBuild(version, found.get("cuda"), found.get("hip"))


def triton_version() -> str | None:
    """None where Triton is not installed. Its distribution has one name on PyPI and others in torch's own index."""
    return _constants("triton", "__init__.py").get("__version__")


def build_fault(wanted: Literal["cuda", "hip"], install: str) -> Broken | None:
    """What keeps kernels in Triton from running on a card that is here, or None. wanted: of torch's builds. install:
    the command that installs that build."""
    build = torch_build()
    if build is None:
        return Broken("torch is not installed", install)
    if Version(build.version) < OLDEST_TORCH:
        return Broken(f"torch is {build.version}, older than {OLDEST_TORCH}", install)
    if (build.cuda if wanted == "cuda" else build.hip) is None:
        return Broken(
            f"torch {build.version} is a {build.kind} build; this card needs a {_BUILDS[wanted]} build", install
        )
    triton = triton_version()
    mend = f'pip install "triton>={OLDEST_TRITON}"' if wanted == "cuda" else install
    if triton is None:
        return Broken("triton is not installed", mend)
    if Version(triton) < OLDEST_TRITON:
        return Broken(f"triton is {triton}, older than {OLDEST_TRITON}", mend)
    return compiler_fault()


def compiler_fault() -> Broken | None:
    """Triton compiles its launcher, in C, when the first kernel starts."""
    if not (os.environ.get("CC") or which("gcc") or which("clang")):
        return Broken("there is no C compiler (gcc or clang), which Triton needs", "sudo apt install gcc")
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme is for what users install beside the system's Python; the headers are the system's.
    header = Path(sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)) / "Python.h"
    if not header.exists():
        return Broken(
            f"Python's headers are not installed ({header}), which Triton needs", "sudo apt install python3-dev"
        )
    return None


def _constants(package: str, file: str) -> dict[str, str]:
    """The names that a module's top level sets to text."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return {}
    try:
        tree = ast.parse(Path(spec.origin).with_name(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return {}
    found = {}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[target.id] = value.value
    return found
