"""The contract as text, so that a change of it shows as a difference.

`python -m anychip_sdk.contract.snapshot` prints the snapshot; `--write PATH` renews the file at PATH."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from anychip_sdk import contract

_PACKAGE = contract.__name__


def describe() -> str:
    """Every public name of the contract but its version: methods with signatures, fields with types and defaults,
    values of enums and constants. Docstrings are not part of it. Ends in a newline."""
    names = [name for name in sorted(contract.__all__) if name != "CONTRACT_VERSION"]
    return "\n".join("\n".join(_describe(name, getattr(contract, name))) for name in names) + "\n"


def snapshot() -> str:
    """The text of the snapshot file: a line with the version, then `describe()`."""
    return f"contract {contract.CONTRACT_VERSION}\n{describe()}"


def _describe(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases}){_dataclass_flags(value)}"
        yield from (f"    {line}" for line in _members(value))
    elif inspect.isfunction(value):
        yield f"def {name}{_signature(value)}"
    elif type(value).__module__.split(".")[0] == "pluggy":
        yield f"{name}: {type(value).__name__}"  # its repr holds an address
    else:
        yield f"{name} = {value!r}"


def _dataclass_flags(cls: type) -> str:
    if not is_dataclass(cls):
        return ""
    parameters = cls.__dataclass_params__  # type: ignore[attr-defined]
    return " dataclass" + (", frozen" if parameters.frozen else "")


def _members(cls: type) -> Iterator[str]:
    if issubclass(cls, Enum):
        yield from (f"{member.name} = {member.value!r}" for member in cls)
        return
    if is_dataclass(cls):
        yield from (_field(f) for f in fields(cls))
    for owner in (c for c in cls.__mro__ if c.__module__.startswith(_PACKAGE)):
        if not is_dataclass(cls):
            yield from _attributes(owner)
        for name, value in vars(owner).items():
            if inspect.isfunction(value) and (not name.startswith("_") or name == "__call__"):
                abstract = "abstract " if getattr(value, "__isabstractmethod__", False) else ""
                yield f"{abstract}def {name}{_signature(value)}"


def _attributes(owner: type) -> Iterator[str]:
    for name, annotation in inspect.get_annotations(owner).items():
        if not name.startswith("_"):
            default = vars(owner).get(name, MISSING)
            has_value = isinstance(default, str | int | float | tuple | dict | type(None))
            text = getattr(annotation, "__forward_arg__", annotation)  # NamedTuple wraps its annotations
            yield f"{name}: {text}{f' = {default!r}' if has_value else ''}"


def _field(f: Field[Any]) -> str:
    text = f"{f.name}: {f.type}"
    if f.default is not MISSING:
        text += " = CONTRACT_VERSION" if f.default is contract.CONTRACT_VERSION else f" = {f.default!r}"
    elif f.default_factory is not MISSING:
        text += f" = {getattr(f.default_factory, '__name__', 'made')}()"
    return text + ("  keyword only" if f.kw_only else "") + ("" if f.compare else "  not compared")


class _Bare(str):
    """An annotation that a printed signature shows without quotes, in every version of Python."""

    __slots__ = ()
    __repr__ = str.__str__


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [
        p if p.annotation is p.empty else p.replace(annotation=_Bare(p.annotation))
        for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=_Bare(signature.return_annotation)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m anychip_sdk.contract.snapshot", description="the contract as text")
    parser.add_argument("--write", metavar="PATH", type=Path, help="renew this file instead of printing")
    path = parser.parse_args().write
    if path is None:
        sys.stdout.write(snapshot())
    else:
        path.write_text(snapshot(), encoding="utf-8")


if __name__ == "__main__":
    main()
