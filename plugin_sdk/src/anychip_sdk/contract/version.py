"""The version of the vendor contract. A change of any public name or signature needs a new version here."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """A contract version. The same major is compatible; a minor adds names and fields with defaults."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


CONTRACT_VERSION = Version(1, 8)


def supported(ours: Version = CONTRACT_VERSION) -> str:
    """The versions that a core with contract `ours` runs, in words."""
    older = f"{ours.major - 1}.x and " if ours.major > 1 else ""
    return f"{older}{ours.major}.0 to {ours}" if ours.minor else f"{older}{ours}"


def runs(theirs: Version, ours: Version = CONTRACT_VERSION) -> bool:
    """Whether a core with contract `ours` runs a plugin written for `theirs`: every minor of the major before, and of
    its own major the minors up to its own. A later minor may have names that this core does not know."""
    return theirs.major == ours.major - 1 >= 1 or (theirs.major == ours.major and theirs.minor <= ours.minor)
