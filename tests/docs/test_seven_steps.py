"""Every file and every command of "Add a platform in 7 steps", in order, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, Command, File, matches, steps

PAGE = DOCS / "vendors/seven_steps.md"
PIP = """import sys, tomllib
from pathlib import Path

sys.path.insert(0, {tests!r})
import editable

match sys.argv[1:]:
    case ["install", "-e", what]:
        folder, _, extra = what.rstrip("]").partition("[")
        project = tomllib.loads(Path(folder, "pyproject.toml").read_text())["project"]
        assert not extra or extra in project["optional-dependencies"]
        editable.install(Path(folder), Path({site!r}))
    case _:
        sys.exit("only pip install -e FOLDER is known here")
"""


class Shell:
    """Commands in a folder of their own, in which `pip install -e` puts the package on the path of this run alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "home"
        site, programs = folder / "site", folder / "bin"
        for path in (self.folder, site, programs):
            path.mkdir()
        tests = str(Path(__file__).parents[1])
        pip = programs / "pip.py"
        pip.write_text(PIP.format(tests=tests, site=str(site)))
        self._program(programs / "pip", f'"{pip}"')
        self._program(programs / "anychip", "-m anychip")
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        programs_path = os.pathsep.join([str(programs), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": programs_path, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def _program(self, path: Path, called: str) -> None:
        """An interpreter's path may hold a space, which a first line with #! cannot."""
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {called} "$@"\n')
        path.chmod(0o755)

    def run(self, command: Command) -> None:
        if command.line.startswith("cd "):
            self.folder = self.folder / command.line.removeprefix("cd ")
            return
        done = subprocess.run(
            ["bash", "-c", command.line], cwd=self.folder, env=self._environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == command.status, f"$ {command.line}\n{done.stdout}\n{done.stderr}"
        if command.said:
            assert matches(command.said, done.stdout), (
                f"$ {command.line}\nthe page says:\n{command.said}\n\nit was:\n{done.stdout}"
            )

    def write(self, file: File) -> None:
        path = self.folder / file.path
        assert path.parent.is_dir(), f"{file.path} is in no folder of the package"
        path.write_text(file.text)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader who did what the page says."""
    shell = Shell(tmp_path_factory.mktemp("seven steps"))
    for step in steps(PAGE):
        shell.write(step) if isinstance(step, File) else shell.run(step)
    return shell.folder


def test_the_page_has_seven_steps():
    titles = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert [title[3] for title in titles[:-1]] == list("1234567")


@pytest.mark.slow
def test_following_it_leads_to_silver(followed):
    assert '"Silver' in (followed / "badge.json").read_text()
    assert (followed / "report/matrix.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("said", "output", "same"),
    [
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("a ... c", "a b c", True),
        ("a\n...", "b\na", False),
        ("[x-1]", "[x-1]", True),
        ("[x-1]", "x", False),
    ],
)
def test_what_the_page_shows_is_compared(said, output, same):
    assert matches(said, output) is same
