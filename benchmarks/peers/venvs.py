"""An environment for each peer, with the versions of `pins/`."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

PINS = Path(__file__).with_name("pins")


class UnusableError(Exception):
    """A peer that cannot be built or run; says why in one line."""


def python(peer: str, folder: Path) -> Path:
    """The interpreter of the peer's environment in `folder`, built first unless it has these very pins. Raises
    UnusableError; FOLDER/PEER.log then tells more."""
    home, pins = folder / peer, PINS / f"{peer}.txt"
    found, stamp = home / "bin/python", home / "pins.txt"
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return found
    print(f"building {home}", flush=True)
    if not found.exists():
        venv.create(home, with_pip=True)
    with (folder / f"{peer}.log").open("w") as log:
        for arguments in installs(pins):
            command = [str(found), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode:
                raise UnusableError(f"cannot be installed: {last_words(Path(log.name).read_text())}")
    stamp.write_text(pins.read_text())
    return found


def installs(pins: Path) -> list[list[str]]:
    """pip's arguments, one command after the other. torch goes first and with what it needs, which differs between its
    builds; everything else is just what the file names."""
    torch = [line for line in pins.read_text().splitlines() if line.startswith("torch==")]
    first = [["-c", str(pins), *torch]] if torch else []
    return [*first, ["--no-deps", "-r", str(pins)]]


def version(python: Path, package: str) -> str:
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    return subprocess.run([python, "-c", code, package], capture_output=True, text=True, check=True).stdout.strip()


def last_words(text: str) -> str:
    """The line of an output that most likely says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no output"])[-1][:300]
