"""The command `anychip`: one file a command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from anychip.cli.parser import Parser
from anychip.errors import AnychipError
from anychip.names import meant

COMMANDS = {
    "generate": "write on from a prompt",
    "chat": "talk to a model in the terminal",
    "serve": "serve OpenAI's HTTP API",
    "bench": "measure speed: a model's, the engine's own, or the start-up's",
    "devices": "list the platforms and devices found here",
    "conformance": "test how much of the contract a device keeps",
    "plugin": "write a new package for a chip",
    "doctor": "gather what a bug report needs",
    "cache": "list or clear the packed weights kept on disk",
    "plan": "say whether a model fits a device, without loading it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 an error said in one line, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # as services are started
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a model may write what a terminal has no sign for
    parser = Parser(
        prog="anychip",
        description="One LLM inference engine for any chip.",
        epilog="anychip COMMAND --help tells a command's options.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    named = next((a for a in arguments if not a.startswith("-")), None)
    if named is not None and named not in COMMANDS:
        parser.error(f"there is no command {named!r}; {meant(named, COMMANDS) or 'known: ' + ', '.join(COMMANDS)}")
    asked = parser
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary)
        if name == named:
            import_module(f"anychip.cli.{name}").add_arguments(sub)
            asked = sub
    asked.check_flags(arguments)
    options, more = parser.parse_known_args(arguments)
    if more:
        what, hint = ("option", "") if more[0].startswith("-") else ("place for", "; a text with spaces needs quotes")
        asked.error(f"there is no {what} {more[0]}{hint}")
    if options.version:
        from anychip import __version__

        print(f"anychip {__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        return int(import_module(f"anychip.cli.{options.command}").run(options) or 0)
    except AnychipError as error:
        print(f"anychip: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nanychip: interrupted", file=sys.stderr)  # behind the text that was being written
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader left; say nothing more
        return 0
    except OSError as error:
        print(f"anychip: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return 1
