"""Bytes, as people write and read them."""

from __future__ import annotations

import re
from typing import Final

FORMS: Final = "a number of bytes, or a size such as 4GiB or 500MB"
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?b)?|b)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """KB, MB, GB and TB are powers of 1000; KiB and so on, and letters alone (4G), of 1024. Raises ValueError for
    anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; expected {FORMS}")
    amount, letter, rest = found.groups()
    base = 1000 if rest and rest.lower() == "b" else 1024
    unit = base ** (" kmgt".index(letter.lower()) if letter else 0)
    return int(float(amount) * unit) if "." in amount else int(amount) * unit


def gib(size: float) -> str:
    """For people."""
    if size < 2**17:
        return f"{size:.0f} bytes"
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
