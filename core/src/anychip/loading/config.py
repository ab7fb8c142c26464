"""JSON files of a checkpoint, read with checks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, overload

from anychip.errors import ModelError

# The getters below are named after the types they return, which hides the builtins inside the class body.
Int: TypeAlias = int
Float: TypeAlias = float
Bool: TypeAlias = bool
Str: TypeAlias = str
List: TypeAlias = list

D = TypeVar("D")


class _Required:
    """Marks a getter without a default: the field has to be there."""


_REQUIRED: Final = _Required()
MAX_INT: Final = 2**31 - 1


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError if it cannot be read, is not JSON or is not an object."""
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}); download the checkpoint again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, expected an object; check the checkpoint")
    return value


def read_text(path: Path) -> str:
    """A file in UTF-8. Raises ModelError if it cannot be read, or is something else."""
    try:
        return _read(path)
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not valid UTF-8 at byte {error.start}; download the checkpoint again") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the file and its permissions") from error


class ConfigReader:
    """Typed getters over config.json.

    A field that is absent or null takes the default; without a default it is an error. Every error is a ModelError
    that names the field, the file and the architecture.

    Args:
        config: the parsed object.
        source: what to call it in messages, for example "config.json of org/name".
    """

    def __init__(self, config: Mapping[str, Any], source: str) -> None:
        self._config = config
        self._source = source
        architectures = config.get("architectures")
        named = isinstance(architectures, list) and architectures and isinstance(architectures[0], str)
        self._architecture = f" (architecture {architectures[0]})" if named and architectures else ""

    @property
    def empty(self) -> Bool:
        """Whether there is no field at all."""
        return not self._config

    @overload
    def int(self, field: Str, *, minimum: Int = 1, maximum: Int = MAX_INT) -> Int: ...
    @overload
    def int(self, field: Str, default: D, *, minimum: Int = 1, maximum: Int = MAX_INT) -> Int | D: ...
    def int(self, field: Str, default: Any = _REQUIRED, *, minimum: Int = 1, maximum: Int = MAX_INT) -> Any:
        """An integer from `minimum` to `maximum`; true and false are not integers."""
        value = self._get(field, default, "an integer")
        if value is None or value is default:
            return value
        if not isinstance(value, Int) or isinstance(value, Bool):
            raise self._wrong(field, value, "an integer")
        if value < minimum:
            raise self._wrong(field, value, f"at least {minimum}")
        if value > maximum:
            raise self._wrong(field, value, f"at most {maximum}")
        return value

    @overload
    def float(self, field: Str) -> Float: ...
    @overload
    def float(self, field: Str, default: D) -> Float | D: ...
    def float(self, field: Str, default: Any = _REQUIRED) -> Any:
        """A finite number, as a float."""
        value = self._get(field, default, "a number")
        if value is None or value is default:
            return value
        if not isinstance(value, Int | Float) or isinstance(value, Bool):
            raise self._wrong(field, value, "a number")
        try:
            number = Float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._wrong(field, value, "a finite number")
        return number

    @overload
    def bool(self, field: Str) -> Bool: ...
    @overload
    def bool(self, field: Str, default: D) -> Bool | D: ...
    def bool(self, field: Str, default: Any = _REQUIRED) -> Any:
        """true or false; 0 and 1 are neither."""
        return self._typed(field, default, Bool, "true or false")

    @overload
    def str(self, field: Str) -> Str: ...
    @overload
    def str(self, field: Str, default: D) -> Str | D: ...
    def str(self, field: Str, default: Any = _REQUIRED) -> Any:
        """A string."""
        return self._typed(field, default, Str, "a string")

    @overload
    def list(self, field: Str) -> List[Any]: ...
    @overload
    def list(self, field: Str, default: D) -> List[Any] | D: ...
    def list(self, field: Str, default: Any = _REQUIRED) -> Any:
        """A list; its items are the caller's to check."""
        return self._typed(field, default, List, "a list")

    @overload
    def section(self, field: Str) -> ConfigReader: ...
    @overload
    def section(self, field: Str, default: D) -> ConfigReader | D: ...
    def section(self, field: Str, default: Any = _REQUIRED) -> Any:
        """A nested object, such as rope_scaling, with the same getters."""
        value = self._typed(field, default, dict, "an object")
        if value is None or value is default:
            return value
        return ConfigReader(value, f"{field} in {self._source}{self._architecture}")

    def _typed(self, field: Str, default: Any, kind: type, expected: Str) -> Any:
        value = self._get(field, default, expected)
        if value is None or value is default or isinstance(value, kind):
            return value
        raise self._wrong(field, value, expected)

    def _get(self, field: Str, default: Any, expected: Str) -> Any:
        value = self._config.get(field)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise ModelError(
                f"{self._source}{self._architecture} lacks {field!r} ({expected}); "
                "add the field, or use a complete checkpoint"
            )
        return default

    def _wrong(self, field: Str, value: Any, expected: Str) -> ModelError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ModelError(
            f"{self._source}{self._architecture}: {field!r} is {shown}, expected {expected}; correct the field"
        )
