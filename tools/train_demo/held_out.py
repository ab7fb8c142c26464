"""Write the text that `anychip bench quality` measures on: a part of what was kept out of the demo model's training.

Documents are parted by form feeds, of which the text has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from corpus import Unit, reference, units

LONGEST = 6000  # characters of one document; the rest of it is left out
SIZE = 64_000  # characters in all


def documents(held_out: list[Unit]) -> Iterator[str]:
    """Sources and manual pages in turn, each cut at the end of a line."""
    sources = [unit.source for unit in held_out if unit.source]
    pages = [text for unit in held_out if (text := reference(unit))]
    for text in (text for pair in zip_longest(sources, pages) for text in pair if text):
        yield text if len(text) <= LONGEST else text[: text.rindex("\n", 0, LONGEST)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    chosen: list[str] = []
    for text in documents([unit for unit in units() if unit.held_out]):
        if sum(map(len, chosen)) + len(text) > SIZE:
            break
        chosen.append(text)
    parser.parse_args().out.write_text("\f\n".join(chosen) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
