"""What users install: the wheels, in an empty environment, on a path with a space in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from anychip_cpu import native

# Two cores compile the kernels for more than a minute, and longer beside other tests; the index may be far away.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DEMO = ("generate", "--model", "demo", "--temperature", "0", "--max-tokens", "8")
PROMPT = "Return a list"


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of both wheels, which the processes of one run share: the first that asks builds them."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    made = folder / "wheels"
    with (folder / "wheels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            # The checkout's own library was compiled for every instruction set; here the least will do.
            one = {**os.environ, "CMAKE_ARGS": f"-DANYCHIP_ISAS={native.isas()[-1]}"}
            for project in (ROOT, ROOT / "platforms/cpu"):
                new = folder / "new wheels"
                run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", new, project, cwd=folder, env=one)
            new.rename(made)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Path]:
    """With both wheels in `dist`. Removed at the end: torch is large."""
    folder = tmp_path_factory.mktemp("a folder")
    shutil.copytree(wheels, folder / "dist")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def wheel(folder: Path, name: str, place: str = "dist") -> Path:
    (found,) = (folder / place).glob(f"{name}-*.whl")
    return found


def install(folder: Path, name: str, *wheels: str) -> Path:
    """The path of programs of a new environment."""
    run(sys.executable, "-m", "venv", name, cwd=folder)
    programs = folder / name / "bin"
    options = ("-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    run(programs / "python", "-m", "pip", "install", *options, *wheels, cwd=folder)
    return programs


def test_the_wheels_hold_what_they_need_and_nothing_else(folder):
    assert wheel(folder, "anychip").name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel(folder, "anychip")) as file:
        names = set(file.namelist())
        metadata = file.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
    assert {Path(n).parts[0].partition("-")[0] for n in names} == {"anychip", "anychip_sdk"}
    needed = {"anychip/py.typed", "anychip_sdk/py.typed", "anychip/demo/model.safetensors", "anychip/demo/config.json"}
    assert needed <= names
    assert any(n.endswith("/licenses/LICENSE") for n in names)
    assert not any("__pycache__" in n or "/tests/" in n for n in names)
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert not any("torch" in line or "jax" in line for line in required)
    assert "Requires-Dist: anychip-cpu; extra == 'cpu'" in required
    with zipfile.ZipFile(wheel(folder, "anychip_cpu")) as file:
        assert {Path(n).parts[0].partition("-")[0] for n in file.namelist()} == {"anychip_cpu"}


def test_without_extras_there_is_no_torch_and_the_demo_runs_on_numpy(folder):
    programs = install(folder, "bare", str(wheel(folder, "anychip")))
    assert run(programs / "anychip", *DEMO, "--device", "numpy", PROMPT, cwd=folder).startswith(PROMPT)
    assert [line.split()[0] for line in run(programs / "anychip", "devices", cwd=folder).splitlines()] == ["numpy"]
    found = run(
        programs / "python", "-c", "from importlib.util import find_spec; print(find_spec('torch'))", cwd=folder
    )
    assert found == "None\n"


def test_with_the_extra_the_demo_runs_on_the_cpu_with_and_without_a_compiler(folder):
    """One test, since both take torch and it is large."""
    programs = install(folder, "whole", f"{wheel(folder, 'anychip')}[cpu]", str(wheel(folder, "anychip_cpu")))
    texts = {d: run(programs / "anychip", *DEMO, "--device", d, PROMPT, cwd=folder) for d in ("cpu", "numpy", "auto")}
    assert texts["cpu"].startswith(PROMPT)
    assert texts["numpy"] == texts["cpu"] == texts["auto"]
    assert [line.split()[0] for line in run(programs / "anychip", "devices", cwd=folder).splitlines()] == [
        "cpu",
        "numpy",
    ]
    run(programs / "python", "-m", "pip", "check", cwd=folder)

    again = ("-q", "--disable-pip-version-check", "--no-deps", "--force-reinstall")
    run(programs / "python", "-m", "pip", "install", *again, uncompiled(folder), cwd=folder)
    found = run(programs / "anychip", "devices", "-v", cwd=folder)
    assert "kernels: missing: no C++ compiler was found" in found
    assert "install g++ or clang++, then anychip-cpu again" in found
    assert run(programs / "anychip", *DEMO, "--device", "cpu", PROMPT, cwd=folder).startswith(PROMPT)


def uncompiled(folder: Path) -> Path:
    """The wheel of anychip-cpu, built where there is no compiler."""
    # A build folder of the checkout's would remember the compiler.
    shutil.copytree(ROOT / "platforms/cpu", folder / "source", ignore=shutil.ignore_patterns("build"))
    none = {**os.environ, "PATH": str(folder / "nothing"), "CC": "/no/cc", "CXX": "/no/c++"}
    python = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "plain", folder / "source")
    run(*python, cwd=folder, env=none)
    made = wheel(folder, "anychip_cpu", "plain")
    with zipfile.ZipFile(made) as file:
        assert not any(name.endswith(".so") for name in file.namelist())
    return made
