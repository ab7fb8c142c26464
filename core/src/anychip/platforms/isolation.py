"""Running a plugin's code so that it can neither hold a command up nor write into its output."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Final, TextIO, TypeVar

T = TypeVar("T")

SECONDS: Final = 5.0
"""How long a plugin may take to load, and then to probe."""


class NoAnswer(Exception):  # noqa: N818 - what happened, in a word
    """A plugin's code did not come back in time."""


def isolated(call: Callable[[], T]) -> T:
    """What `call` returns or raises, SystemExit and KeyboardInterrupt included. Raises NoAnswer after SECONDS. What
    it prints goes to standard error.

    It runs in a daemon thread: one that hangs is left behind and does not hold up the end of the process. A process
    of its own would cost every start of the engine an interpreter, and what a probe loads is needed in this one. The
    price: C code that hangs and keeps the interpreter's lock hangs the command too."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # it is raised again in the thread that asked
            answer.set_exception(error)

    with printing_to_stderr():
        threading.Thread(target=work, name="anychip-plugin", daemon=True).start()
        wait([answer], SECONDS)
    if not answer.done():
        raise NoAnswer(f"no answer within {SECONDS:g} s")
    return answer.result()


@contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Python's prints, and those of libraries and child processes, which know the file descriptor only."""
    _STDOUT.divert()
    try:
        yield
    finally:
        _STDOUT.restore()


class _StandardOutput:
    """The process has one: threads that divert it at once do so together, from the first to the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._kept: int | None = None
        self._stream: TextIO | None = None

    def divert(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._stream = sys.stdout
            if sys.stdout is not None:  # as in a process that was started without one
                sys.stdout.flush()
            sys.stdout = sys.stderr
            try:
                self._kept = os.dup(1)
                os.dup2(2, 1)
            except OSError:  # the process has no standard output or error: there is nothing to keep apart
                self._kept = None

    def restore(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            sys.stdout = self._stream
            if self._kept is not None:
                os.dup2(self._kept, 1)
                os.close(self._kept)


_STDOUT = _StandardOutput()
