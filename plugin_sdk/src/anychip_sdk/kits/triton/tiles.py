"""Tile choices, and what of a chip they depend on. A platform brings the table; none is tuned while serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tile:
    """`rows` and `columns` of the product a program makes at a time, and the inner size `depth` of a GEMM's step;
    `warps` of the target's own width; `stages` of its load pipeline."""

    rows: int
    columns: int
    depth: int = 0
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The choices for one target. Attention's are by (bytes of a value, head_dim as a power of two), the experts' by
    bytes of a value."""

    decode: Mapping[tuple[int, int], Tile]
    prefill: Mapping[tuple[int, int], Tile]
    experts_few: Mapping[int, Tile]
    """for at most FEW_TOKENS tokens"""
    experts_many: Mapping[int, Tile]
    chunk: int = 512
    """places that one program of split decode reads: fixed, so that a result does not depend on the batch"""
    programs: int = 264
    """programs of split decode that share the work, for each KV head"""


FEW_TOKENS = 64


def head_block(head_dim: int) -> int:
    """The power of two, 16 at least, that a head is padded to in registers."""
    return max(16, 1 << (head_dim - 1).bit_length())


def attention_tile(table: Mapping[tuple[int, int], Tile], item: int, head_dim: int) -> Tile:
    """item: bytes of a value. The table has entries for 64, 128 and 256; narrower heads take the first."""
    return table[item, max(64, head_block(head_dim))]


def widened_tile(tile: Tile, item: int) -> Tile:
    """For K and V in 8 bits, which are widened in registers to `item` bytes: they hold fewer columns, and of float32,
    which no matrix unit multiplies as it is, no second block that is on its way."""
    return replace(tile, columns=max(16, tile.columns // 2), stages=1 if item == 4 else tile.stages)
