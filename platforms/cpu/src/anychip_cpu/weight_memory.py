"""Memory for packed weights."""

from __future__ import annotations

import math

import torch
from anychip_sdk.contract import OutOfMemory
from torch import Tensor

from anychip_cpu.native import advise

PAGE = 2**21
"""Bytes of a huge page. A step reads every weight, and of pages of 4 KiB a processor knows too few addresses at a time:
the rest it looks up in tables, which it has to read as well."""
CHUNK = 2**26
"""Bytes asked for at once. Weights lie side by side in them, since most are smaller than a page; what is left at the
end is never written, and takes no memory."""
LINE = 64
COPIED = 2**28
"""Bytes that are copied from a file, at most: the start of a model is to take under a second, and memory that a machine
has never used takes its time. What comes behind them stays mapped."""


class WeightMemory:
    """Of one device. A chunk lives as long as a tensor in it does."""

    def __init__(self, copied: int = COPIED) -> None:
        self._rest = torch.empty(0, dtype=torch.uint8)
        self._to_copy = copied

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Not initialised, from a multiple of LINE on. Raises OutOfMemory."""
        size = math.prod(shape) * dtype.itemsize
        if size > len(self._rest):
            self._rest = _chunk(max(CHUNK, size))
        taken, self._rest = self._rest[:size], self._rest[-(-size // LINE) * LINE :]
        return taken.view(dtype).view(shape)

    def copy(self, x: Tensor) -> Tensor:
        """x in this memory, or x itself where enough was copied. Raises OutOfMemory."""
        if x.nbytes > self._to_copy:
            return x
        self._to_copy -= x.nbytes
        return self.empty(tuple(x.shape), x.dtype).copy_(x)


def _chunk(size: int) -> Tensor:
    """[size] uint8, from the start of a page on."""
    try:
        found = torch.empty(size + PAGE, dtype=torch.uint8)
    except RuntimeError as error:
        raise OutOfMemory(f"no memory for {size} bytes of weights") from error
    chunk = found[-found.data_ptr() % PAGE :][:size]
    advise(chunk.data_ptr(), size)
    return chunk
