"""How long the command itself takes to start, and what `import anychip` drags in."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter

REPEATS = 5
PROBES = {
    "anychip --help": ["-m", "anychip", "--help"],
    "import anychip": ["-c", "import anychip"],
    "bare python": ["-c", "pass"],
}


def run() -> dict[str, float]:
    """Milliseconds, the best of five runs each."""
    return {name: min(_once(arguments) for _ in range(REPEATS)) for name, arguments in PROBES.items()}


def _once(arguments: list[str]) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own words
    return (perf_counter() - start) * 1000
