"""anychip chat: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys

from anychip.cli.generate import Report, announce
from anychip.cli.options import add_engine_options, add_sampling_options, engine_options, sampling_options
from anychip.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", help="a system message to begin with")
    add_engine_options(parser, without=("--policy",))
    add_sampling_options(parser)


def run(options: argparse.Namespace) -> None:
    from anychip.engine.llm import LLM

    given = {"max_tokens": 512, **sampling_options(options)}
    with LLM(options.model, progress=True, **engine_options(options)) as llm:
        announce(llm)
        llm.chat_prompt([{"role": "user", "content": "?"}])  # no template: say so before the first line is typed
        params = llm.default_params(**given)
        messages = [{"role": "system", "content": options.system}] if options.system else []
        print("Type a message; an empty line or Ctrl-D ends the conversation.", file=sys.stderr)
        while line := _read():
            messages.append({"role": "user", "content": line})
            report = Report()
            try:
                answer = "".join(report.add(piece) for piece in llm.chat(messages, params))
            except RequestError as error:  # most often: the conversation outgrew the context
                print(f"anychip: {error}", file=sys.stderr)
                messages.pop()
                continue
            print()
            report.check()
            messages.append({"role": "assistant", "content": answer})


def _read() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()
