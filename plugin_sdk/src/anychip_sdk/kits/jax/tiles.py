"""How a ragged batch is cut into tiles: each a few tokens of one sequence that stand side by side."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from anychip_sdk.contract import Batch

ROWS = 16
"""Tokens of a tile, unless a device wants others."""


@dataclass(frozen=True)
class Tiles:
    """N tiles of Q rows. T tokens; a token beyond the real ones has no place in a tile."""

    tokens: Array
    """[N, Q] index of the token; rows past `count` repeat any other"""
    count: Array
    """[N] rows that are tokens"""
    seq: Array
    """[N] row of the sequence"""
    positions: Array
    """[N, Q] place of each token in its sequence"""
    real: Array
    """[T] whether it is a token"""
    tile: Array
    """[T] tile of the token"""
    row: Array
    """[T] its row in the tile"""


def cut(batch: Batch, rows: int = ROWS) -> Tiles:
    """rows: tokens of a tile where some sequence has more than one."""
    T = batch.key.bucket.tokens
    token = jnp.arange(T, dtype=jnp.int32)
    real = token < batch.counts[0]
    if batch.key.bucket.decode:
        seq, row = jnp.where(real, token, 0), jnp.zeros_like(token)
        return Tiles(token[:, None], real.astype(jnp.int32), seq, batch.positions[:, None], real, token, row)
    B = batch.key.bucket.seqs
    starts, ends = batch.query_start[:-1], batch.query_start[1:]  # [B] each
    whole = jnp.cumsum(-(-(ends - starts) // rows))  # [B] tiles up to the sequence, its own included
    first = jnp.concatenate([jnp.zeros(1, whole.dtype), whole[:-1]])
    N = min(T, T // rows + B)
    tile = jnp.arange(N, dtype=jnp.int32)
    seq = jnp.minimum(jnp.searchsorted(whole, tile, side="right"), B - 1).astype(jnp.int32)
    start = starts[seq] + (tile - first[seq]) * rows  # [N]
    count = jnp.where(tile < whole[-1], jnp.clip(ends[seq] - start, 0, rows), 0)
    tokens = jnp.clip(start[:, None] + jnp.arange(rows), 0, T - 1)
    mine = batch.token_seq
    offset = token - starts[mine]
    place = jnp.where(real, first[mine] + offset // rows, 0)
    return Tiles(tokens, count, seq, batch.positions[tokens], real, place, jnp.where(real, offset % rows, 0))
