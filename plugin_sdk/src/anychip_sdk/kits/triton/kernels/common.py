"""Functions that several kernels call."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def owner(ends: tl.tensor, last: int, item: int, rounds: int) -> Any:
    """The first index i in 0..last with ends[i] > item, for `ends` that never fall: a search among 16 at a time, since
    each round waits for memory. rounds: see `search_rounds`."""
    first = 0
    for round in range(rounds):
        width = 1 << (4 * (rounds - 1 - round))
        probe = first + (tl.arange(0, 16) + 1) * width - 1
        passed = tl.load(ends + probe, mask=probe <= last, other=2147483647) <= item
        first += width * tl.sum(passed.to(tl.int32), axis=0)
    return tl.minimum(first, last)


def search_rounds(count: int) -> int:
    """What `owner` needs for `count` ends."""
    return max(1, -(-(count - 1).bit_length() // 4))


@triton.jit
def inverse_rms(squares: tl.tensor, size: int, eps: float) -> Any:
    """squares: sums of `size` squares each -> 1 / sqrt(squares / size + eps), each step correctly rounded. Once a row
    that costs nothing; `/` and tl.sqrt are quick forms on cards, off by more than all else in a float32 norm."""
    mean = tl.div_rn(squares, tl.full(squares.shape, size, tl.float32))
    return tl.div_rn(tl.full(squares.shape, 1.0, tl.float32), tl.sqrt_rn(mean + eps))


@triton.jit
def tanh(x: tl.tensor, PRECISE: tl.constexpr) -> Any:
    """Without cancellation near 0, where the form with exp loses all digits: there, the Taylor series. PRECISE: its
    quotient is correctly rounded, which costs registers."""
    square = x * x
    series = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    more = tl.exp(2 * tl.abs(x)) + 1
    wide = 1 - (tl.div_rn(tl.full(x.shape, 2.0, tl.float32), more) if PRECISE else 2 / more)
    return tl.where(tl.abs(x) < 0.25, series, tl.where(x < 0, -wide, wide))
