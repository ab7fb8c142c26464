"""The check of a vendor's class when it is made: unknown public names and wrong signatures are errors there."""

from __future__ import annotations

import difflib
import inspect
from abc import ABC
from typing import Any, ClassVar


def _parameters(function: Any) -> list[tuple[str, Any, bool]]:
    """Name, kind and whether a default exists, for every parameter."""
    signature = inspect.signature(function)
    return [(p.name, p.kind, p.default is not p.empty) for p in signature.parameters.values()]


def _public_names(cls: type) -> set[str]:
    names = {name for name in vars(cls) if not name.startswith("_")}
    return names | {name for name in inspect.get_annotations(cls) if not name.startswith("_")}


class Checked(ABC):  # noqa: B024 - its subclasses have the abstract methods
    """Base of every class of the contract. A subclass outside the contract may define the contract's public names
    with the contract's signatures, and private names (a leading underscore) as it likes.

    Raises TypeError, naming the class and the name, for anything else: a misspelled override would otherwise be
    a method that nobody calls. Helpers that a kit offers to its subclasses are listed in `extends`.
    """

    extends: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Checked in cls.__bases__:
            return  # a class of the contract itself
        roots = [c for c in cls.__mro__ if Checked in c.__bases__]
        known = {name: root for root in roots for name in _public_names(root)}
        extra = {name for c in cls.__mro__ for name in vars(c).get("extends", ())} | {"extends"}
        for name in sorted(_public_names(cls)):
            if name in known:
                _check_signature(cls, name, known[name])
            elif name not in extra:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise TypeError(
                    f"{cls.__module__}.{cls.__qualname__}.{name} is not part of the contract "
                    f"{'/'.join(r.__name__ for r in roots)}{hint} Private helpers start with an underscore."
                )


def _check_signature(cls: type, name: str, root: type) -> None:
    wanted, got = inspect.getattr_static(root, name, None), vars(cls).get(name)
    if not inspect.isfunction(wanted) or got is None:
        return  # an attribute
    if not inspect.isfunction(got):
        raise TypeError(f"{cls.__module__}.{cls.__qualname__}.{name} must be a method, as in {root.__name__}")
    expected, actual = _parameters(wanted), _parameters(got)
    extra = actual[len(expected) :]
    if actual[: len(expected)] != expected or any(not default for _, _, default in extra):
        raise TypeError(
            f"{cls.__module__}.{cls.__qualname__}.{name}{inspect.signature(got)} does not match the contract's "
            f"{root.__name__}.{name}{inspect.signature(wanted)}"
        )
