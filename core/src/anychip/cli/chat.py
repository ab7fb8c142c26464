"""anychip chat: a conversation in the terminal."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from anychip.cli.generate import Report, announce, read_input
from anychip.cli.options import add_engine_options, add_sampling_options, engine_options, sampling_options
from anychip.errors import RequestError

if TYPE_CHECKING:
    from anychip.engine.llm import LLM
    from anychip.sampling_params import SamplingParams


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", help="a system message to begin with")
    add_engine_options(parser, without=("--policy",))
    add_sampling_options(parser)


def run(options: argparse.Namespace) -> None:
    from anychip.engine.llm import LLM
    from anychip.loading.chat_template import no_template
    from anychip.loading.checkpoint import open_checkpoint
    from anychip.loading.tokenizer import find_chat_template

    given = sampling_options(options, max_tokens=512)
    with open_checkpoint(options.model, revision=options.revision) as checkpoint:
        if find_chat_template(checkpoint.path) is None:
            raise no_template(checkpoint.name)
    with LLM(options.model, progress=True, **engine_options(options)) as llm:
        announce(llm)
        params = llm.default_params(**given)
        messages = [{"role": "system", "content": options.system}] if options.system else []
        print("Type a message; an empty line or Ctrl-D ends the conversation, Ctrl-C an answer.", file=sys.stderr)
        while line := _read():
            messages.append({"role": "user", "content": line})
            try:
                if dropped := _shorten(llm, messages):
                    turns = "turn was" if dropped == 1 else f"{dropped} turns were"
                    print(f"(the context is full: the oldest {turns} dropped)", file=sys.stderr)
                answer = _answer(llm, messages, params)
            except RequestError as error:  # this message alone outgrows the context, or the template refuses it
                print(f"anychip: {error}", file=sys.stderr)
                messages.pop()
                continue
            messages.append({"role": "assistant", "content": answer})


def _answer(llm: LLM, messages: list[dict[str, str]], params: SamplingParams) -> str:
    """Prints it as it comes, and gives back as much as came before Ctrl-C."""
    report, said = Report(), ""
    with _interrupts() as pressed, closing(llm.chat(messages, params)) as pieces:
        for piece in pieces:
            said += report.add(piece)
            if pressed:
                print("\n(stopped)", file=sys.stderr)
                return said
    print()
    report.check()
    return said


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Has an element once Ctrl-C was pressed: a step in between is not torn apart. The second time ends the command."""
    pressed: list[int] = []

    def press(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _shorten(llm: LLM, messages: list[dict[str, str]]) -> int:
    """Drops the oldest questions with their answers, until an eighth of the context is free. How many were dropped."""
    first = 1 if messages[0]["role"] == "system" else 0
    most = llm.max_model_len - llm.max_model_len // 8
    dropped = 0
    while len(messages) > first + 2 and len(llm.chat_prompt(messages)) > most:
        del messages[first : first + 2]
        dropped += 1
    return dropped


def _read() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return read_input(sys.stdin.readline).strip()
