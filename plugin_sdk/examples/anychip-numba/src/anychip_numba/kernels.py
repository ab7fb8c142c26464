"""The kernels: plain loops, which Numba compiles for the processor they run on. Arrays are C-contiguous."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 16
"""Rows that are multiplied together."""

# Sums may be reordered, so that they run in vector registers. NaN and infinity keep their meaning.
compiled = njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy")


@compiled
def dot(a: Array, b: Array) -> Any:
    """[N], [N] -> their inner product, in their dtype."""
    total = a.dtype.type(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@compiled
def dot4(x: Array, w: Array) -> Any:
    """x: [I], w: [4, I] -> four inner products, for which x is read once."""
    a = b = c = d = x.dtype.type(0)
    for i in range(x.shape[0]):
        a += x[i] * w[0, i]
        b += x[i] * w[1, i]
        c += x[i] * w[2, i]
        d += x[i] * w[3, i]
    return a, b, c, d


@compiled
def matmul(x: Array, w: Array, out: Array) -> None:
    """x: [T, I], w: [O, I] -> out: [T, O]. BLOCK rows of x stay in the cache while all of w passes by."""
    whole = w.shape[0] // 4 * 4
    for first in range(0, x.shape[0], BLOCK):
        last = min(first + BLOCK, x.shape[0])
        for o in range(0, whole, 4):
            for t in range(first, last):
                out[t, o], out[t, o + 1], out[t, o + 2], out[t, o + 3] = dot4(x[t], w[o : o + 4])
        for o in range(whole, w.shape[0]):
            for t in range(first, last):
                out[t, o] = dot(x[t], w[o])


@compiled
def write(new: Array, cache: Array, slots: Array) -> None:
    """new: [T, K, D] goes to places slots [T] of cache [pages, page_size, K, D]."""
    size = cache.shape[1]
    for t in range(new.shape[0]):
        cache[slots[t] // size, slots[t] % size] = new[t]


@compiled
def attend(
    q: Array,
    keys: Array,
    values: Array,
    table: Array,
    starts: Array,
    positions: Array,
    sequences: int,
    scale: float,
    window: int,
    softcap: float,
    out: Array,
) -> None:
    """q: [T, H, D]; keys: [pages, page_size, K, D], values with Dv; table: [B, P]; starts: [B + 1]; positions: [T] ->
    out: [T, H, Dv]. Only places that a token sees are read: others may hold anything. window, softcap: 0 for none."""
    size, ratio = keys.shape[1], q.shape[1] // keys.shape[2]
    for s in range(sequences):
        for t in range(starts[s], starts[s + 1]):
            end = positions[t] + 1
            start = max(0, end - window) if window else 0
            scores = np.empty(end - start, q.dtype)
            for h in range(q.shape[1]):
                largest = -np.inf
                for n in range(start, end):
                    score = dot(q[t, h], keys[table[s, n // size], n % size, h // ratio]) * scale
                    if softcap:
                        score = softcap * math.tanh(score / softcap)
                    scores[n - start] = score
                    largest = max(largest, score)
                weights = np.exp(scores - q.dtype.type(largest))
                weights /= weights.sum()
                out[t, h] = 0
                for n in range(start, end):
                    out[t, h] += weights[n - start] * values[table[s, n // size], n % size, h // ratio]
