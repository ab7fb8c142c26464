"""Packed weights kept on disk, so that the next start of a model maps them instead of packing them again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from anychip_sdk.contract import StoredWeight, WeightSpec

from anychip.loading.checkpoint import Checkpoint
from anychip.loading.content import digest
from anychip.loading.packed_file import Damaged, Writer, read, read_about

logger = logging.getLogger(__name__)

PLACE: Final = "ANYCHIP_CACHE"
"""Environment variable: the directory to keep things in, or `off`."""
LEAST: Final = 32 * 2**20
"""Bytes of weights below which nothing is kept: they are packed as quickly as a file is looked up."""
KEPT_DAYS: Final = 30
"""A file that no start has used for so long goes when another one is written."""
KEPT_FORMS: Final = 3
"""Of one model in one format the files of so many builds and machines stay, those that were used last: every build of a
device's code lays weights out for itself, and machines with different processors may share a home."""
SUFFIX: Final = ".packed"


def folder() -> Path | None:
    """Where anychip keeps what it can make again: $ANYCHIP_CACHE, else `anychip` in the user's cache directory
    ($XDG_CACHE_HOME, else ~/.cache). None where ANYCHIP_CACHE is `off`, or no home is known."""
    asked = os.environ.get(PLACE)
    if asked:
        return None if asked == "off" else Path(os.path.expanduser(asked))
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # as the XDG Base Directory Specification has it
        try:
            cache = Path.home() / ".cache"
        except RuntimeError:
            return None
    return cache / "anychip"


@dataclass(frozen=True)
class Entry:
    """A file of packed weights. `form`: the numbers' format, and behind a comma `Device.stored_form`; empty of a file
    that nobody can read. `used`: seconds since 1970."""

    path: Path
    model: str
    form: str
    nbytes: int
    used: float


def entries() -> list[Entry]:
    """Every file, the one used last first. One that is damaged, or of an older anychip, has the model `damaged`."""
    root = folder()
    return [] if root is None else _entries(root / "weights")


def _entries(directory: Path) -> list[Entry]:
    found = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with suppress(OSError):
            state = path.stat()
            try:
                about = read_about(path)
            except Damaged:
                about = {"model": "damaged", "form": ""}
            with suppress(OSError):  # of another user, or on a disk that cannot be written
                os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # to look at it is not to use it
            found.append(Entry(path, about["model"], about["form"], state.st_size, state.st_atime))
    return sorted(found, key=lambda entry: -entry.used)


class WeightCache:
    """The file of one model in one form."""

    def __init__(self, path: Path, about: dict[str, str], key: Callable[[], str]) -> None:
        """key: tells the key that `path` has, if the checkpoint is still what it was."""
        self.path = path
        self._about, self._key = about, key

    @classmethod
    def find(cls, checkpoint: Checkpoint, specs: Sequence[WeightSpec], dtype: str, form: str) -> WeightCache | None:
        """form: `Device.stored_form`. None where nothing is kept. The file's name says all that its bytes depend on, so
        a file of that name is the right one wherever the checkpoint lies."""
        root = folder()
        if root is None:
            return None

        def key() -> str:
            return _key(checkpoint, specs, dtype, form, root / "digests")

        name = re.sub(r"[^\w.-]+", "-", checkpoint.name)[:64]
        kept = sorted({spec.quantize for spec in specs if spec.quantize is not None})
        about = {"model": checkpoint.name, "form": f"{' '.join([dtype, *kept])}, {form}"}
        try:
            return cls(root / "weights" / f"{name}-{key()}{SUFFIX}", about, key)
        except OSError as error:
            _complain(root, error)
            return None

    def load(self, count: int) -> list[StoredWeight] | None:
        """The weights, `count` of them, or None where there is no whole file. Marks it as used."""
        try:
            found = read(self.path)
            if len(found) != count:
                raise Damaged(f"it has {len(found)} weights, expected {count}")
            with suppress(OSError):  # it is as good where it cannot be written
                os.utime(self.path, ns=(time.time_ns(), self.path.stat().st_mtime_ns))
        except FileNotFoundError:
            return None
        except Damaged as error:
            self.refuse(str(error))
            return None
        except OSError as error:
            logger.warning("packed weights in %s cannot be read (%s); packing again", self.path, error.strerror)
            return None
        return found

    def refuse(self, why: str) -> None:
        """Removes a file that is no good."""
        logger.warning("the packed weights in %s are no good: %s; packing again", self.path, why)
        with suppress(OSError):
            self.path.unlink()

    @contextmanager
    def writing(self, size: int) -> Iterator[Shelf]:
        """What takes the weights as they are packed; the file has its name when the block ends without an exception.
        size: their bytes, about. A full disk or a directory that cannot be written costs a warning, once."""
        shelf = Shelf(self.path, self._about, size)
        try:
            yield shelf
        except BaseException:
            shelf.abandon()
            raise
        try:
            same = not shelf.taking or self.path.name.endswith(f"-{self._key()}{SUFFIX}")
        except OSError:
            same = False
        if not same:
            shelf.abandon()  # the checkpoint was changed meanwhile, or is gone: nobody knows what was packed
        shelf.finish()


class Shelf:
    """Takes packed weights for a file, or nothing where there can be none."""

    def __init__(self, path: Path, about: dict[str, str], size: int) -> None:
        self._path, self._about = path, about
        self._writer: Writer | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sweep(self._path.parent, about)
            if size > shutil.disk_usage(self._path.parent).free // 2:
                raise OSError(None, f"{size / 1e9:.1f} GB would be more than half of what is free")
            self._writer = Writer.begin(self._path)
        except OSError as error:
            _complain(self._path.parent, error)

    @property
    def taking(self) -> bool:
        return self._writer is not None

    def add(self, weight: StoredWeight) -> None:
        if self._writer is not None:
            try:
                self._writer.add(weight)
            except OSError as error:
                _complain(self._path.parent, error)
                self.abandon()

    def finish(self) -> None:
        if self._writer is not None:
            try:
                self._writer.finish(self._path, self._about)
            except OSError as error:
                _complain(self._path.parent, error)
                self.abandon()

    def abandon(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):
                writer.abandon()


def _key(checkpoint: Checkpoint, specs: Sequence[WeightSpec], dtype: str, form: str, notes: Path) -> str:
    """Of everything that packed bytes depend on: which tensors, their files' contents, dtype and form."""
    names = sorted({name for spec in specs for part in (*spec.parts, spec.bias) for name in part})
    files = {checkpoint.tensors[name].file for name in names}
    contents = {file: digest(file, notes) for file in files}
    tensors = [(name, contents[checkpoint.tensors[name].file]) for name in names]
    described = json.dumps([form, dtype, tensors, [_described(spec) for spec in specs]])
    return hashlib.sha256(described.encode()).hexdigest()[:32]


def _described(spec: WeightSpec) -> list[Any]:
    values = (getattr(spec, field.name) for field in fields(spec))
    return [hashlib.sha256(v.tobytes()).hexdigest() if isinstance(v, np.ndarray) else v for v in values]


def _sweep(directory: Path, coming: dict[str, str]) -> None:
    """Removes what nobody has used for long, what other builds than the last few left of the model that is coming, what
    nobody can read, and what a process that died left half written."""
    oldest = time.time() - KEPT_DAYS * 86400
    model, numbers = coming["model"], coming["form"].partition(",")[0]
    stay = {coming["form"]}
    for entry in _entries(directory):
        same = entry.model == model and entry.form.partition(",")[0] == numbers
        if same and len(stay) < KEPT_FORMS:
            stay.add(entry.form)
        if not entry.form or entry.used < oldest or (same and entry.form not in stay):
            with suppress(OSError):
                entry.path.unlink()
    drop_unfinished(directory)


def drop_unfinished(directory: Path) -> None:
    """Removes what processes that died left half written, and nothing that is being written."""
    for path in directory.glob("*.part"):
        with suppress(OSError):
            left = Writer.begin(path.with_suffix(SUFFIX))
            if left is not None:
                left.abandon()


def _complain(directory: Path, error: OSError) -> None:
    logger.warning(
        "packed weights are not kept, so the next start packs them again: %s: %s; free some space there, set %s to "
        "another directory, or to off to keep none",
        *(directory, error.strerror or error, PLACE),
    )
