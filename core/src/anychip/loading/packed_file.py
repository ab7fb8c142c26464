"""A file of packed weights: written as they are packed, mapped straight into memory when they are wanted again.

    0       head: magic, time stamp, place and length of the index, SHA-256 of these and of the index
    4096    the arrays' bytes, each array from a multiple of 4096 on
    ...     index, JSON: {"about": {...}, "weights": [[facts, [[offset, bytes], ...]], ...]}

A file is whole when its length is what the head says, the checksum is right, and the time of its last change is the
stamp that its writer gave it. So gigabytes need not be read to see that nobody has written into it since."""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from anychip_sdk.contract import StoredWeight

MAGIC: Final = b"anychip1"
ALIGNMENT: Final = 4096
_HEAD: Final = struct.Struct("<8sQQQ32s")
_STAMP_NS: Final = 2 * 10**9
"""Stamps are multiples of this, which file systems keep that know no nanoseconds."""


class Damaged(ValueError):  # noqa: N818 - a state of a file, not a fault of the program
    """The file is not as its writer left it. The message says what is wrong."""


class Writer:
    """Writes one file, under another name until it is whole."""

    def __init__(self, part: Path, file: int) -> None:
        self._part, self._file = part, file
        self._end = ALIGNMENT
        self._weights: list[tuple[Any, list[tuple[int, int]]]] = []

    @classmethod
    def begin(cls, path: Path) -> Self | None:
        """path: of the file to be. None where another process is writing it. Raises OSError."""
        part = path.with_suffix(".part")
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had the lock may have finished, and given the file its name, since it was opened here.
            if os.path.samestat(os.fstat(file), part.stat()):
                os.ftruncate(file, 0)
                return cls(part, file)
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def add(self, weight: StoredWeight) -> None:
        """Raises OSError."""
        places = []
        for array in weight.arrays:
            start = -(-self._end // ALIGNMENT) * ALIGNMENT
            self._put(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, start)
            places.append((start, array.nbytes))
        self._weights.append((weight.facts, places))

    def finish(self, path: Path, about: Mapping[str, str]) -> None:
        """Gives the file its name. Raises OSError."""
        index = json.dumps({"about": dict(about), "weights": self._weights}).encode()
        start = self._end
        self._put(memoryview(index), start)
        stamp = time.time_ns() // _STAMP_NS * _STAMP_NS
        checked = hashlib.sha256(struct.pack("<QQQ", stamp, start, len(index)) + index).digest()
        self._put(memoryview(_HEAD.pack(MAGIC, stamp, start, len(index), checked)), 0)
        os.fsync(self._file)
        os.utime(self._file, ns=(time.time_ns(), stamp))
        self._part.replace(path)
        os.close(self._file)

    def abandon(self) -> None:
        """Instead of `finish`."""
        self._part.unlink(missing_ok=True)
        os.close(self._file)

    def _put(self, data: memoryview, start: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._file, data[done:], start + done)
        self._end = max(self._end, start + len(data))


def read_about(path: Path) -> dict[str, str]:
    """What the writer said of the file. Raises OSError, Damaged."""
    with path.open("rb") as file:
        about: dict[str, str] = _index(file.fileno())["about"]
    return about


def read(path: Path) -> list[StoredWeight]:
    """The weights, in the order in which they were added, as views of one private mapping: nothing is read before it is
    used, processes share what is, and a write into an array stays with its process. Raises OSError, Damaged."""
    with path.open("rb") as file:
        entries = _index(file.fileno())["weights"]
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if hasattr(mmap, "MADV_WILLNEED"):
        mapped.madvise(mmap.MADV_WILLNEED)

    def view(start: int, size: int) -> np.ndarray:
        return np.frombuffer(mapped, np.uint8, size, start) if size else np.empty(0, np.uint8)

    return [StoredWeight(facts, tuple(view(*place) for place in places)) for facts, places in entries]


def _index(file: int) -> dict[str, Any]:
    """Checked against the head; a right checksum vouches for what is in it."""
    found = os.fstat(file)
    head = os.pread(file, _HEAD.size, 0)
    if len(head) < _HEAD.size or not head.startswith(MAGIC):
        raise Damaged("it has no head")
    _, stamp, start, size, checked = _HEAD.unpack(head)
    if found.st_size != start + size:
        raise Damaged(f"it has {found.st_size} bytes, expected {start + size}")
    if found.st_mtime_ns != stamp:
        raise Damaged("it was changed after it was written")
    index = os.pread(file, size, start)
    if hashlib.sha256(struct.pack("<QQQ", stamp, start, size) + index).digest() != checked:
        raise Damaged("its checksum is wrong")
    result: dict[str, Any] = json.loads(index)
    return result
