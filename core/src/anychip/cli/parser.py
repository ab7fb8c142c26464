"""The command line's grammar: mistakes in one line, that says what was meant or expected."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NoReturn

from anychip.names import meant
from anychip.sizes import FORMS, parse_size


class Parser(argparse.ArgumentParser):
    """Says what is wrong without the usage, which has a line for every option."""

    def error(self, message: str) -> NoReturn:
        """Exits with 2. What argparse calls "argument --x: is ..." is a value that one of the types below refused."""
        message = message.removeprefix("argument ").replace(": is ", " is ", 1)
        more = "" if message.endswith("?") else f"; see {self.prog} --help"
        self.exit(2, f"{self.prog}: {message}{more}\n")

    def check_flags(self, arguments: Sequence[str]) -> None:
        """Exits with 2 for an option that does not exist. To be called before parsing, which would first complain of
        the required option that was misspelled."""
        known = set(self._flags())
        for argument in arguments:
            if argument == "--":
                return
            flag = argument.partition("=")[0]
            # One with a space is a prompt, and one that others begin with stands for them.
            if flag.startswith("--") and " " not in argument and not any(name.startswith(flag) for name in known):
                wanted = meant(flag, known)
                self.error(f"there is no option {flag}" + (f"; {wanted}" if wanted else ""))

    def _flags(self) -> Iterator[str]:
        """Of this command and of those below it."""
        for action in self._actions:
            yield from action.option_strings
            if isinstance(action.choices, dict):
                for parser in action.choices.values():
                    yield from parser._flags()


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {text!r}; expected a whole number") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {text!r}; expected a number") from None


def size(text: str) -> int:
    """Bytes."""
    try:
        return parse_size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {text!r}; expected {FORMS}") from None
