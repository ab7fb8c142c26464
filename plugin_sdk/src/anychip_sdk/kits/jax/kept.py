"""Compiled programs that devices share: what was compiled for one need not be compiled for the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from hashlib import sha256
from threading import Lock
from typing import Any

from jax.stages import Compiled, Lowered

MOST = 256
"""Programs that are kept, those that were used last."""


class Kept:
    """Programs in memory, found by what they are made of. JAX's own persistent cache does the same on disk, for the
    backends that can write their programs."""

    def __init__(self) -> None:
        self._programs: OrderedDict[Hashable, Compiled] = OrderedDict()
        self._lock = Lock()

    def compile(self, lowered: Lowered, options: Mapping[str, Any] | None, devices: tuple[int, ...]) -> Compiled:
        """devices: ids of those it is to run on, in order."""
        text = sha256(lowered.as_text().encode()).digest()
        key = (text, lowered.in_tree, lowered.out_tree, devices, tuple(sorted((options or {}).items())))
        with self._lock:
            if key in self._programs:
                self._programs.move_to_end(key)
                return self._programs[key]
        made = compile_alone(lowered, options, devices)
        with self._lock:
            self._programs[key] = made
            while len(self._programs) > MOST:
                self._programs.popitem(last=False)
        return made


Compiler = Callable[[Lowered, Mapping[str, Any] | None, tuple[int, ...]], Compiled]


def compile_alone(lowered: Lowered, options: Mapping[str, Any] | None, devices: tuple[int, ...]) -> Compiled:
    """As `Kept.compile`, and nothing is kept."""
    return lowered.compile(None if options is None else dict(options))
