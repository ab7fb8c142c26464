"""A plugin that was written for contract 1.0 and never touched again, from its wheel: today, and with the engine of
today calling itself 2.1 and 3.0."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anychip_sdk
import pytest
from anychip_sdk.contract import CONTRACT_VERSION

HERE = Path(__file__).parent
WHEEL = HERE / "anychip_elder-1.0-py3-none-any.whl"
SOURCES = HERE / "anychip-elder/src"
SDK = Path(anychip_sdk.__file__).parent
DEMO = ("generate", "--model", "demo", "--temperature", "0", "--max-tokens", "8", "Return a list", "--device")
FOUND = "elder        found   numpy, written for contract 1.0  (anychip-elder 1.0)"


@dataclass(frozen=True)
class Engine:
    """`path`: what goes before everything that is installed."""

    path: tuple[Path, ...]
    folder: Path

    def run(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """Standard output and standard error of an anychip command."""
        inherited = filter(None, [os.environ.get("PYTHONPATH")])
        path = os.pathsep.join([*map(str, self.path), *inherited])
        done = subprocess.run(
            [sys.executable, "-m", "anychip", *arguments], cwd=self.folder, capture_output=True, text=True,
            check=False, timeout=240, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout, done.stderr

    def judge(self, areas: Sequence[str]) -> dict:
        """The report of a quick run."""
        self.run("conformance", "--device", "elder", "--quick", "--areas", ",".join(areas), "--out", "report")
        return json.loads((self.folder / "report/report.json").read_text(encoding="utf-8"))


@pytest.fixture
def engine(tmp_path):
    """version -> the engine of today with the plugin beside it. version None: as it is; else it calls itself so."""

    def make(version: str | None) -> Engine:
        site = tmp_path / "site"
        with zipfile.ZipFile(WHEEL) as wheel:
            wheel.extractall(site)
        if version is None:
            return Engine((site,), tmp_path)
        shutil.copytree(SDK, tmp_path / "sdk/anychip_sdk", ignore=shutil.ignore_patterns("__pycache__"))
        source = tmp_path / "sdk/anychip_sdk/contract/version.py"
        today = "Version({}, {})".format(*CONTRACT_VERSION)
        text = source.read_text(encoding="utf-8")
        assert text.count(f"CONTRACT_VERSION = {today}") == 1
        source.write_text(text.replace(today, f"Version({version.replace('.', ', ')})"), encoding="utf-8")
        return Engine((tmp_path / "sdk", site), tmp_path)

    return make


def test_the_wheel_is_what_its_sources_say():
    with zipfile.ZipFile(WHEEL) as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == {str(path.relative_to(SOURCES)): path.read_bytes() for path in sorted(SOURCES.rglob("*.py"))}


def test_it_knows_the_contract_alone():
    for path in SOURCES.rglob("*.py"):
        assert "anychip_sdk.kits" not in path.read_text(encoding="utf-8"), path.name
    assert "contract=Version(1, 0)" in (SOURCES / "anychip_elder/plugin.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("version", [None, "2.1"], ids=["today", "next major"])
def test_it_is_found_and_runs(engine, version):
    anychip = engine(version)
    assert FOUND in anychip.run("devices")[0].splitlines()
    texts = [anychip.run(*DEMO, device)[0] for device in ("elder", "numpy")]
    assert texts[0] == texts[1] != ""
    report = anychip.judge(["discovery", "ops", "executor"])
    assert (report["level"], report["failures"]) == ("bronze", [])
    assert report["versions"]["plugin contract"] == "1.0"
    assert report["versions"]["contract"] == (version or str(CONTRACT_VERSION))


def test_the_major_after_the_next_refuses_it_in_one_line(engine):
    anychip = engine("3.0")
    out, _ = anychip.run("devices")
    (line,) = [line for line in out.splitlines() if line.startswith("elder ")]
    assert line == (
        "elder        broken  anychip-elder 1.0 is written for contract 1.0, this anychip has 3.0 "
        "and runs 2.x and 3.0; to mend it: pip install --upgrade anychip-elder"
    )
    assert any(line.startswith("numpy        found") for line in out.splitlines())
    _, error = anychip.run(*DEMO, "elder", status=1)
    assert error.splitlines()[-1].startswith("anychip: elder is broken: anychip-elder 1.0 is written for contract 1.0")
