"""The engine's random numbers: a function of (seed, position) alone, so that a request's tokens do not depend on
what else runs, on the device, or on having been preempted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
    x: uint64, any shape."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """seeds: [R] uint64, positions: [R] int32 -> [R] float32 in [0, 1), 24 bits each."""
    counter = (positions.astype(np.uint64) + np.uint64(1)) * _GAMMA
    bits = mix(mix(seeds + _GAMMA) ^ counter) >> np.uint64(40)
    return (bits.astype(np.float64) * 2.0**-24).astype(np.float32)


def child_seed(seed: int, index: int) -> int:
    """The seed of completion `index` of a request; completion 0 keeps the request's own."""
    if index == 0:
        return seed
    mixed = mix(np.array([seed], np.uint64) + np.array([index], np.uint64) * _GAMMA)
    return int(mixed[0])
