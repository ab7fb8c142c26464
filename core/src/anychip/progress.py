"""Progress of long work: a bar on a terminal, a plain line now and then in a pipe."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Written to stderr. `shown=False` is silent."""

    def __init__(
        self, what: str, total: int, *, unit: str = "", shown: bool = True, stream: TextIO | None = None
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._stream = stream if stream is not None else sys.stderr
        self._done = self._told = 0
        self._shown = shown and self._stream is not None  # a process may have no standard error
        self._bar: Any = None
        if self._shown and self._stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, unit=unit or "it", file=self._stream, leave=False)

    def advance(self, count: int = 1, note: str = "") -> None:
        """note: something short to show beside the count."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
            if note:
                self._bar.set_postfix_str(note, refresh=False)
        elif (self._shown and (self._done - self._told) * 10 >= self._total) or (
            self._shown and self._done == self._total
        ):
            self._told = self._done
            unit = f" {self._unit}" if self._unit else ""
            end = f", {note}" if note else ""
            print(f"{self._what}: {self._done}/{self._total}{unit}{end}", file=self._stream, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
