"""Races in Pallas's model of a TPU are errors.

JAX only prints them, after comparing every access of a buffer with each one before it in a loop. This record gives the
same verdicts, compares with all of them at once, and raises. It takes the place of JAX's own record
(`model.adapt`)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anychip_tpu.kernels.model import line_of

DIMENSIONS = 8
"""Of a buffer, at most."""
FIRST_DMA = 100
"""DMAs are numbered from here on, as if they were chips."""
Range = tuple[slice | int, ...]
Buffer = tuple[str, int, int, int]
"""Memory space, number, chip, core."""


class RaceError(Exception):
    """Two accesses of one place, of which at least one writes, and nothing says which comes first."""


@dataclass
class _Accesses:
    """Those of one buffer that read, or that write. clocks: [N, cores] vector clocks; bounds: [N, DIMENSIONS, 2] first
    index and the one behind the last; places: who, where, and in which lines."""

    clocks: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0), np.int32))
    bounds: NDArray[Any] = field(default_factory=lambda: np.empty((0, DIMENSIONS, 2), np.int64))
    places: list[tuple[int, Range, Any]] = field(default_factory=list)

    def add(self, clock: NDArray[Any], bounds: NDArray[Any], place: tuple[int, Range, Any]) -> None:
        count = len(self.places)
        if count == len(self.bounds):
            room = max(16, 2 * count)
            clocks, kept = np.empty((room, len(clock)), np.int32), np.empty((room, DIMENSIONS, 2), np.int64)
            clocks[:count], kept[:count] = self.clocks.reshape(count, -1)[:, : len(clock)] if count else 0, self.bounds
            self.clocks, self.bounds = clocks, kept
        self.clocks[count], self.bounds[count] = clock, bounds
        self.places.append(place)

    def racing(self, clock: NDArray[Any], bounds: NDArray[Any]) -> tuple[int, Range, Any] | None:
        """The first access that overlaps and that happened neither before nor after: vector clocks are ordered if one
        is nowhere behind the other, and not the same."""
        count = len(self.places)
        if count == 0:
            return None
        clocks, others = self.clocks[:count], self.bounds[:count]
        unordered = (clocks <= clock).all(1) == (clocks >= clock).all(1)
        if not unordered.any():
            return None
        overlap = ((others[:, :, 0] < bounds[:, 1]) & (bounds[:, 0] < others[:, :, 1])).all(1)
        found = np.flatnonzero(unordered & overlap)
        return self.places[found[0]] if len(found) else None


class Races:
    """Stands for jax's RaceDetectionState, with its methods. Accesses come one after the other."""

    def __init__(self, num_cores: int) -> None:
        self._reads: dict[Buffer, _Accesses] = defaultdict(_Accesses)
        self._writes: dict[Buffer, _Accesses] = defaultdict(_Accesses)

    def check_read(
        self, device_id: int, local_core_id: int, clock: Any, buffer_key: Buffer, rnge: Range, source_info: Any = None
    ) -> None:
        """Raises RaceError."""
        bounds, mine = _bounds(rnge), (device_id, rnge, source_info)
        self._reads[buffer_key].add(clock, bounds, mine)
        self._check("read", mine, clock, bounds, buffer_key, "write", self._writes)

    def check_write(
        self, device_id: int, local_core_id: int, clock: Any, buffer_key: Buffer, rnge: Range, source_info: Any = None
    ) -> None:
        """Raises RaceError."""
        bounds, mine = _bounds(rnge), (device_id, rnge, source_info)
        self._check("write", mine, clock, bounds, buffer_key, "write", self._writes)
        self._check("write", mine, clock, bounds, buffer_key, "read", self._reads)
        self._writes[buffer_key].add(clock, bounds, mine)

    def _check(
        self, what: str, mine: Any, clock: Any, bounds: Any, key: Buffer, other: str, before: dict[Buffer, _Accesses]
    ) -> None:
        found = before[key].racing(clock, bounds)
        if found is not None:
            space, number, chip, _ = key
            raise RaceError(
                f"race in {space} buffer {number} of chip {chip}: the {what} {_told(*mine)} and the {other} "
                f"{_told(*found)} overlap, and nothing orders them"
            )


def _bounds(rnge: Range) -> NDArray[Any]:
    """[DIMENSIONS, 2]; dimensions that are not named are whole."""
    bounds = np.empty((DIMENSIONS, 2), np.int64)
    bounds[:] = 0, np.iinfo(np.int64).max
    for i, part in enumerate(rnge):
        if isinstance(part, slice):
            if part.stop is not None:
                bounds[i] = part.start or 0, part.stop
        else:
            bounds[i] = part, part + 1
    return bounds


def _told(device: int, rnge: Range, source_info: Any) -> str:
    parts = (f"{p.start or 0}:{p.stop}" if isinstance(p, slice) else str(p) for p in rnge)
    who = f"DMA {device - FIRST_DMA}" if device >= FIRST_DMA else "the core"
    return f"of [{', '.join(parts) or '...'}] by {who} at {line_of(source_info)}"
