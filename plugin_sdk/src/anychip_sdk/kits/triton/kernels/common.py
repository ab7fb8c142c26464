"""Functions that several kernels call."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def owner(ends: tl.tensor, last: int, item: int, steps: int) -> Any:
    """The first index i in 0..last with ends[i] > item, for `ends` that never fall. steps: bits of last + 1."""
    low = 0
    high = last
    for _ in range(steps):
        middle = (low + high) // 2
        after = tl.load(ends + middle) <= item
        low = tl.where(after, middle + 1, low)
        high = tl.where(after, high, middle)
    return tl.minimum(low, last)


@triton.jit
def tanh(x: tl.tensor) -> Any:
    """Without cancellation near 0, where the form with exp loses all digits: there, the Taylor series."""
    square = x * x
    series = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    wide = 1 - 2 / (tl.exp(2 * tl.abs(x)) + 1)
    return tl.where(tl.abs(x) < 0.25, series, tl.where(x < 0, -wide, wide))
