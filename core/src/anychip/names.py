"""Names that users type: which one was meant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, ClassVar, Self

from anychip.errors import RequestError


def meant(name: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or nothing where no known name is near. A long name is none, and would take long."""
    from difflib import get_close_matches

    found = get_close_matches(name[:80], list(known), 1, 0.7)
    return f"did you mean {found[0]}?" if found else ""


class Named:
    """Base of dataclasses that users fill in by keyword. One that is no field raises RequestError, with the field that
    was meant, or with all there are."""

    _noun: ClassVar[str]
    """what a field is called"""

    def __new__(cls, *values: Any, **given: Any) -> Self:
        known = sorted(field.name for field in fields(cls))  # type: ignore[arg-type]  # a subclass is a dataclass
        for name in given:
            if name not in known:
                wanted = meant(name, known) or f"known: {', '.join(known)}"
                raise RequestError(f"unknown {cls._noun} {name!r}; {wanted}", name)
        return super().__new__(cls)
