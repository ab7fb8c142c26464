"""The worked third-party plugin in plugin_sdk/examples: its own distribution, the SDK alone, Silver."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "plugin_sdk/examples/anychip-numba"
SOURCES = sorted((EXAMPLE / "src").rglob("*.py"))


def test_it_imports_the_sdk_and_its_framework_only():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.partition(".")[0]
                allowed = {"anychip_sdk", "anychip_numba", "numba", "numpy"} | set(sys.stdlib_module_names)
                assert top in allowed, (path.name, name)


def test_its_readme_counts_its_lines():
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    counted = {name: int(lines) for name, lines in re.findall(r"^\| `(src/\S+)` \| (\d+) \|", text, re.MULTILINE)}
    real = {str(p.relative_to(EXAMPLE)): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert counted == real
    assert f"| in all | {sum(real.values())} |" in text


def run(*command: str | Path, cwd: Path, timeout: float = 900) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty environment with the two wheels, and what they need, in it."""
    folder = tmp_path_factory.mktemp("third party")
    for project in (ROOT, EXAMPLE):
        copy = folder / project.name
        shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "__pycache__"))
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "dist", copy, cwd=folder)
    run(sys.executable, "-m", "venv", "env", cwd=folder)
    (engine,) = (folder / "dist").glob("anychip-*.whl")
    (plugin,) = (folder / "dist").glob("anychip_numba-*.whl")
    wheels = (f"{engine}[conformance]", plugin)
    quiet = ("-q", "--disable-pip-version-check")
    run(folder / "env/bin/python", "-m", "pip", "install", *quiet, *wheels, cwd=folder)
    return folder / "env/bin"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the index may be far away, and the suite runs
def test_its_wheel_beside_the_engine_s_reaches_silver(programs, tmp_path):
    lines = run(programs / "anychip", "devices", cwd=tmp_path).splitlines()
    assert [line.split()[:2] for line in lines] == [["numba", "found"], ["numpy", "found"]]
    demo = ("generate", "--model", "demo", "--temperature", "0", "--max-tokens", "8", "Return a list")
    texts = [run(programs / "anychip", *demo, "--device", device, cwd=tmp_path) for device in ("numba", "numpy")]
    assert texts[0] == texts[1]
    run(programs / "anychip", "conformance", "--device", "numba", "--quick", "--out", "report", cwd=tmp_path)
    assert json.loads((tmp_path / "report/report.json").read_text())["level"] == "silver"
