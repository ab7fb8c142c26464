"""anychip generate: stream a completion."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from anychip.cli.options import (
    NO_PREFIX_CACHING,
    NO_WARM_UP,
    add_engine_options,
    add_sampling_options,
    engine_options,
    sampling_options,
)
from anychip.errors import AnychipError, RequestError
from anychip.outputs import RequestOutput

if TYPE_CHECKING:
    from anychip.engine.async_engine import AsyncEngine
    from anychip.engine.llm import LLM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="text to write on from; - or nothing reads standard input")
    parser.add_argument("--stats", action="store_true", help="print timing to standard error")
    add_engine_options(parser, without=("--policy", NO_PREFIX_CACHING, NO_WARM_UP))
    add_sampling_options(parser)


def run(options: argparse.Namespace) -> None:
    from anychip.engine.llm import LLM

    given = sampling_options(options, max_tokens=256)
    prompt = _piped() if options.prompt in (None, "-") else options.prompt
    if not prompt:
        raise RequestError("the prompt is empty; give a text, or pipe one in", "prompt")
    # One request needs few of the steps that could come.
    with LLM(options.model, progress=True, warm_up=False, **engine_options(options)) as llm:
        announce(llm)
        pieces = llm.stream(prompt, llm.default_params(**given))
        print(prompt, end="", flush=True)
        report = Report()
        for piece in pieces:
            report.add(piece)
        print(flush=True)  # before the timing, where both end in one pipe
        report.check()
        if options.stats:
            print(report.line(), file=sys.stderr)


def _piped() -> str:
    if sys.stdin.isatty():
        print("Type the prompt; Ctrl-D ends it.", file=sys.stderr)
    # The line break that ends a file or an echo is not a part of the prompt.
    return read_input(sys.stdin.read).removesuffix("\n")


def read_input(read: Callable[[], str]) -> str:
    """What `read` reads from standard input. Raises RequestError for what is no text."""
    try:
        return read()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"standard input is no valid {error.encoding} at byte {error.start}; mend it", "prompt"
        ) from error


def announce(engine: LLM | AsyncEngine) -> None:
    """Which device was taken and why, on standard error."""
    print(f"device: {engine.device_name} ({engine.device_reason})", file=sys.stderr)


class Report:
    """Prints pieces as they come and keeps the time."""

    def __init__(self) -> None:
        from time import perf_counter

        self._clock = perf_counter
        self._start = perf_counter()
        self._first: float | None = None
        self._tokens = 0
        self._error: str | None = None

    def add(self, piece: RequestOutput) -> str:
        text = ""
        for out in piece.outputs:
            if out.new_token_ids and self._first is None:
                self._first = self._clock() - self._start
            self._tokens += len(out.new_token_ids)
            text += out.new_text
        print(text, end="", flush=True)
        self._error = piece.error or self._error
        return text

    def check(self) -> None:
        if self._error:
            raise AnychipError(f"the request failed: {self._error}")

    def line(self) -> str:
        total = self._clock() - self._start
        first = self._first or total
        rate = (self._tokens - 1) / (total - first) if self._tokens > 1 and total > first else 0.0
        return f"{self._tokens} tokens, first after {first * 1000:.0f} ms, then {rate:.1f} tokens/s"
