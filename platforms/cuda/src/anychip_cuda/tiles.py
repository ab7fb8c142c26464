"""Tiles for NVIDIA's cards, chosen for shared memory, registers and the load pipeline; never while serving."""

from __future__ import annotations

from anychip_sdk.kits.triton.tiles import Tile, Tiles

AMPERE = Tiles(
    decode={
        (2, 64): Tile(rows=16, columns=64, warps=4, stages=3),
        (2, 128): Tile(rows=16, columns=64, warps=4, stages=3),
        (2, 256): Tile(rows=16, columns=32, warps=4, stages=3),
        (4, 64): Tile(rows=16, columns=32, warps=4, stages=2),
        (4, 128): Tile(rows=16, columns=32, warps=4, stages=2),
        (4, 256): Tile(rows=16, columns=16, warps=4, stages=2),
    },
    prefill={
        (2, 64): Tile(rows=128, columns=64, warps=8, stages=3),
        (2, 128): Tile(rows=64, columns=64, warps=4, stages=3),
        (2, 256): Tile(rows=64, columns=32, warps=8, stages=2),
        (4, 64): Tile(rows=32, columns=32, warps=4, stages=2),
        (4, 128): Tile(rows=32, columns=32, warps=8, stages=2),
        (4, 256): Tile(rows=32, columns=16, warps=8, stages=2),
    },
    experts_few={
        2: Tile(rows=16, columns=64, depth=128, warps=4, stages=3),
        4: Tile(rows=16, columns=64, depth=32, warps=4, stages=2),
    },
    experts_many={
        2: Tile(rows=128, columns=128, depth=32, warps=8, stages=3),
        4: Tile(rows=32, columns=64, depth=32, warps=4, stages=2),
    },
    chunk=512,
    programs=432,  # four for each of 108 multiprocessors
)
"""For cards with 99 KB of shared memory: compute capability 8.6, 8.9 and 12.0. 8.0 has 163 KB."""

HOPPER = Tiles(
    decode=AMPERE.decode,
    prefill={
        **AMPERE.prefill,
        (2, 64): Tile(rows=128, columns=128, warps=8, stages=3),
        (2, 128): Tile(rows=128, columns=64, warps=8, stages=3),
    },
    experts_few=AMPERE.experts_few,
    experts_many={**AMPERE.experts_many, 2: Tile(rows=128, columns=128, depth=64, warps=8, stages=3)},
    chunk=512,
    programs=528,  # four for each of 132 multiprocessors
)
"""For cards with 227 KB of shared memory: compute capability 9.0 and 10.0."""


def tiles_of(capability: tuple[int, int]) -> Tiles:
    """capability: of a card, 8.0 or later."""
    return HOPPER if capability[0] in (9, 10) else AMPERE
