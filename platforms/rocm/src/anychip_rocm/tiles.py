"""Tiles for AMD's cards. On CDNA a warp of Triton is a wave of 64 lanes, so half as many do the work of NVIDIA's."""

from __future__ import annotations

from collections.abc import Mapping

from anychip_sdk.kits.triton.tiles import Tile, Tiles

GFX942 = Tiles(
    decode={
        (2, 64): Tile(rows=16, columns=64, warps=2, stages=2),
        (2, 128): Tile(rows=16, columns=64, warps=4, stages=2),
        (2, 256): Tile(rows=16, columns=32, warps=4, stages=2),
        (4, 64): Tile(rows=16, columns=32, warps=4, stages=2),
        (4, 128): Tile(rows=16, columns=32, warps=4, stages=2),
        (4, 256): Tile(rows=16, columns=16, warps=4, stages=2),
    },
    prefill={
        (2, 64): Tile(rows=128, columns=64, warps=4, stages=2),
        (2, 128): Tile(rows=128, columns=64, warps=4, stages=2),
        (2, 256): Tile(rows=64, columns=32, warps=4, stages=2),
        (4, 64): Tile(rows=64, columns=32, warps=4, stages=2),
        (4, 128): Tile(rows=64, columns=32, warps=4, stages=2),
        (4, 256): Tile(rows=32, columns=16, warps=4, stages=2),
    },
    experts_few={
        2: Tile(rows=16, columns=64, depth=128, warps=4, stages=2),
        4: Tile(rows=16, columns=64, depth=32, warps=4, stages=2),
    },
    experts_many={
        2: Tile(rows=128, columns=128, depth=64, warps=4, stages=2),
        4: Tile(rows=64, columns=64, depth=32, warps=4, stages=2),
    },
    chunk=512,
    programs=608,  # two for each of 304 compute units
)
"""CDNA 3 (MI300): 64 KB of LDS."""

GFX950 = Tiles(
    decode=GFX942.decode,
    prefill=GFX942.prefill,
    experts_few=GFX942.experts_few,
    experts_many=GFX942.experts_many,
    chunk=512,
    programs=512,  # two for each of 256 compute units
)
"""CDNA 4 (MI350): 160 KB of LDS."""

GFX1100 = Tiles(
    decode={
        (2, 64): Tile(rows=16, columns=32, warps=4, stages=1),
        (2, 128): Tile(rows=16, columns=32, warps=4, stages=1),
        (2, 256): Tile(rows=16, columns=32, warps=16, stages=1),
        (4, 64): Tile(rows=16, columns=16, warps=4, stages=1),
        (4, 128): Tile(rows=16, columns=16, warps=8, stages=1),
        (4, 256): Tile(rows=16, columns=16, warps=16, stages=1),
    },
    prefill={
        (2, 64): Tile(rows=64, columns=32, warps=4, stages=1),
        (2, 128): Tile(rows=64, columns=32, warps=8, stages=1),
        (2, 256): Tile(rows=32, columns=16, warps=16, stages=1),
        (4, 64): Tile(rows=16, columns=16, warps=8, stages=1),
        (4, 128): Tile(rows=16, columns=16, warps=16, stages=1),
        (4, 256): Tile(rows=16, columns=16, warps=16, stages=1),
    },
    experts_few={
        2: Tile(rows=16, columns=64, depth=64, warps=4, stages=1),
        4: Tile(rows=16, columns=64, depth=16, warps=4, stages=1),
    },
    experts_many={
        2: Tile(rows=64, columns=64, depth=32, warps=4, stages=1),
        4: Tile(rows=32, columns=64, depth=16, warps=8, stages=1),
    },
    chunk=512,
    programs=384,  # four for each of 96 compute units
)
"""RDNA 3 (RX 7900): 64 KB of LDS, waves of 32 lanes."""

TILES: Mapping[str, Tiles] = {"gfx942": GFX942, "gfx950": GFX950, "gfx1100": GFX1100}
