"""The version of the vendor contract. A change of any public name or signature needs a new version here."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """A contract version. The same major is compatible; a minor adds names and fields with defaults."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


CONTRACT_VERSION = Version(1, 0)
