"""A page of the documents as a reader follows it: files to write, commands to type, and what they answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^~~~(\w+)([^\n]*)\n(.*?)^~~~$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"# (\S+/\S+\.py)\n")


@dataclass(frozen=True)
class File:
    """A Python block. Its first line names the file."""

    path: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line after `$` of a console block. `said`: the lines below it, "..." for anything. A block that begins with
    `~~~console fails` holds commands that exit with 1."""

    line: str
    said: str
    status: int


def steps(page: Path) -> Iterator[File | Command]:
    """In the order of the page. Blocks of other languages are for reading only."""
    for language, rest, body in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            named = _PATH.match(body)
            assert named, f"a Python block of {page.name} does not name its file: {body.splitlines()[0]}"
            yield File(named[1], body)
        elif language == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                line, _, said = part.partition("\n")
                yield Command(line, said.strip("\n"), int(rest.strip() == "fails"))


def matches(said: str, output: str) -> bool:
    """Whether the output is what the page shows. "..." stands for anything: within a line, or for whole lines."""
    pattern = ".*".join(re.escape(part) for part in re.split(r"\.\.\.", said.strip()))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None
