"""Inputs of a check: drawn from a seed, saved when it fails, and given again to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from anychip_sdk.conformance.numerics import rounded, stored
from anychip_sdk.contract import DType, Reader, WeightKind, WeightSpec

Array = NDArray[Any]


class Draw:
    """Every array has a name within its check. What was drawn is kept in `arrays`, to be saved; with `saved`, the
    arrays of an earlier run are given instead of new ones."""

    def __init__(self, check: str, seed: int, saved: Mapping[str, Array] | None = None) -> None:
        self._check, self._seed = check, seed
        self.rng = np.random.default_rng([seed, crc32(check.encode())])
        self.arrays: dict[str, Array] = {}
        self._saved = saved

    def again(self) -> Draw:
        """The same arrays once more."""
        return Draw(self._check, self._seed, self._saved)

    def normal(self, name: str, *shape: int, dtype: DType = "float32", scale: float = 1.0) -> Array:
        """Normally distributed, on the grid of `dtype`."""
        return self._keep(name, lambda: rounded(self.rng.standard_normal(shape) * scale, dtype))

    def integers(self, name: str, low: int, high: int, *shape: int) -> Array:
        """int32 in low..high - 1."""
        return self._keep(name, lambda: self.rng.integers(low, high, shape).astype(np.int32))

    def permutation(self, name: str, length: int) -> Array:
        return self._keep(name, lambda: self.rng.permutation(length).astype(np.int32))

    def make(self, name: str, create: Callable[[np.random.Generator], Array]) -> Array:
        """Whatever `create` makes of the generator."""
        return self._keep(name, lambda: create(self.rng))

    def _keep(self, name: str, create: Callable[[], Array]) -> Array:
        assert name not in self.arrays, f"{name!r} is drawn twice in one check"
        if self._saved is None:
            self.arrays[name] = create()
        elif name in self._saved:
            self.arrays[name] = self._saved[name]
        else:
            raise LookupError(f"the saved inputs have no {name!r}; they were made by another version of the suite")
        return self.arrays[name]


def load(path: Path) -> dict[str, Array]:
    """The arrays of a saved check."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


@dataclass(frozen=True)
class Given:
    """A weight to pack: its spec and the tensors it names."""

    spec: WeightSpec
    tensors: Mapping[str, Array]

    def reader(self, form: DType | None = None) -> tuple[Reader, dict[str, tuple[int, ...]]]:
        """As a checkpoint would give it, stored in `form` (None: float32 or float64, as drawn)."""
        arrays = {n: a if form is None else stored(a, form) for n, a in self.tensors.items()}

        def read(name: str, index: tuple[slice, ...] = ()) -> Array:
            return arrays[name][index]

        return read, {name: a.shape for name, a in arrays.items()}


def _one(kind: WeightKind, x: Array, **fields: Any) -> Given:
    return Given(WeightSpec((("w",),), kind, **fields), {"w": x})


def table(x: Array, quantize: str | None = None, *, head: bool = False) -> Given:
    """Rows [N, E] that a step picks by token id: the way of any array into a step. head: they make logits too.
    quantize: what the head is kept in."""
    return _one("embedding", x, quantize=quantize, head=head or quantize is not None)


def norm(w: Array, offset: float = 0.0) -> Given:
    return _one("norm", w, offset=offset)


def vector(x: Array) -> Given:
    return _one("vector", x)


def rope(frequencies: Array) -> Given:
    return Given(WeightSpec((), "rope", const=frequencies), {})


def linear(*parts: Array, bias: tuple[Array, ...] = (), quantize: str | None = None, head: bool = False) -> Given:
    """parts: [O, I] each. quantize: a name of QUANT_FORMATS. head: it makes logits."""
    names = [f"w{i}" for i in range(len(parts))]
    biases = [f"b{i}" for i in range(len(bias))]
    spec = WeightSpec(tuple((n,) for n in names), "linear", bias=tuple(biases), quantize=quantize, head=head)
    return Given(spec, dict(zip([*names, *biases], [*parts, *bias], strict=True)))


def experts(*parts: Array) -> Given:
    """parts: [experts, O, I] each."""
    names = [tuple(f"w{i}.{e}" for e in range(len(part))) for i, part in enumerate(parts)]
    tensors = {n: w for row, part in zip(names, parts, strict=True) for n, w in zip(row, part, strict=True)}
    return Given(WeightSpec(tuple(names), "experts"), tensors)
