"""Memory that recorded steps write to: blocks that are given out again as soon as no tensor uses them."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = 4096
"""Bytes of the smallest block."""


@dataclass
class Block:
    memory: Tensor  # [bytes] uint8
    owner: weakref.ref[object] | None = None


class Pool:
    """All recordings share it: no two run at the same time, and results are copied before the next one runs. So it is
    as large as what the largest step has in use at once, and much of it stays in the processor's cache."""

    def __init__(self) -> None:
        self._free: list[Block] = []
        self._lent: dict[int, Block] = {}  # by address

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor in a block of its own, which is free again when the tensor and all its views are gone.

        Raises RuntimeError where there is no memory."""
        size = max(LEAST, math.prod(shape) * dtype.itemsize)
        block = self._smallest(size)
        # torch keeps the array until the last view is gone; the array's own end tells that.
        array = block.memory.numpy()[:size]
        address = block.memory.data_ptr()
        self._lent[address] = block
        block.owner = weakref.ref(array, lambda _: self._back(address))
        flat = torch.from_numpy(array)[: math.prod(shape) * dtype.itemsize]
        return flat.view(dtype).view(shape)

    def again(self, x: Tensor) -> Tensor | None:
        """The same numbers as x, without keeping their block from being given out; None where x lies elsewhere."""
        block = self._lent.get(x.untyped_storage().data_ptr())
        if block is None:
            return None
        whole = block.memory[: block.memory.numel() // x.dtype.itemsize * x.dtype.itemsize].view(x.dtype)
        return whole.as_strided(x.shape, x.stride(), x.storage_offset())

    def _smallest(self, size: int) -> Block:
        """Of the free ones that hold `size` bytes; of equals the one that was used last."""
        fitting = [b for b in reversed(self._free) if b.memory.numel() >= size]
        if not fitting:
            return Block(torch.empty(size, dtype=torch.uint8))
        best = min(fitting, key=lambda b: b.memory.numel())
        self._free = [b for b in self._free if b is not best]
        return best

    def _back(self, address: int) -> None:
        self._free.append(self._lent.pop(address))
