"""What a file holds, told from its SHA-256, which is remembered while the file stays as it is."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_SETTLED_NS: Final = 2 * 10**9
"""A file that changed later than this ago may change again within what its times can tell apart."""


def digest(path: Path, notes: Path) -> str:
    """The file's SHA-256 in hex.

    Reading gigabytes takes seconds, so the digest is noted down in the directory `notes` with the file's size, times
    and inode, and read from there while these are the same, as git does with its index. Raises OSError for a file that
    cannot be read; notes that cannot be written are left out."""
    real = path.resolve()
    note = notes / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    state = _state(real)
    with suppress(OSError, ValueError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if isinstance(known, dict) and known.get("state") == state and isinstance(known.get("sha256"), str):
            return str(known["sha256"])
    begun = time.time_ns()
    with real.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if _state(real) == state and begun - max(state[1:3]) > _SETTLED_NS:
        with suppress(OSError):
            _write(note, {"path": str(real), "state": state, "sha256": found})
    return found


def _state(path: Path) -> list[int]:
    """Size, time of the last change of the bytes, and of the inode, in nanoseconds; inode."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _write(note: Path, content: dict[str, object]) -> None:
    """Whole or not at all, whoever else writes it."""
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = note.with_suffix(f".{os.getpid()}")
    try:
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(note)
    finally:
        part.unlink(missing_ok=True)
