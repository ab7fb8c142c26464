"""The one int32 buffer of a step, and the arrays in it.

The core fills the buffer through numpy views; the device uploads it once and takes the same views of its own
array. All padding is zero, and zero means scratch (token 0, page 0, slot 0), so padded work is harmless.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import Any

from anychip_sdk.contract.specs import StepKey

Array = Any
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Row(IntEnum):
    """Columns of `Batch.sampling`. Float columns hold the bits of a float32 (`.view(float32)`)."""

    TEMPERATURE = 0
    """float >= 0; 0 takes the most likely token and ignores the filters"""
    TOP_P = 1
    """float in (0, 1]; 1 keeps all"""
    MIN_P = 2
    """float in [0, 1]; 0 keeps all"""
    UNIFORM = 3
    """float in [0, 1): this row's random number, made by the core from (seed, position)"""
    REPETITION = 4
    """float > 0; 1 does nothing"""
    PRESENCE = 5
    """float; 0 does nothing"""
    FREQUENCY = 6
    """float; 0 does nothing"""
    TOP_K = 7
    """int >= 0; 0 keeps all"""
    TARGET = 8
    """int: the token whose logprob is wanted, plus one; 0 means the sampled token"""


ROW_WORDS = len(Row)
FLOAT_COLUMNS = int(Row.FREQUENCY) + 1
"""The first columns of a row are floats, the rest are integers."""


@dataclass
class Batch:
    """Views of one upload. The same class on the host (numpy) and on the device. T tokens, B sequences, R logit
    rows, G KV groups, P page-table columns; decoding sequences come before prefilling ones."""

    key: StepKey
    counts: Array
    """[4] real tokens, sequences, logit rows, and how many of the sequences decode (one token each, first)"""
    token_ids: Array
    """[T]"""
    positions: Array
    """[T] place of the token in its sequence, from 0"""
    token_seq: Array
    """[T] row of its sequence"""
    token_slot: Array
    """[T] request slot"""
    feed: Array
    """[T] 1: the id is `state.last_token[token_slot]`, sampled by a step still in flight"""
    query_start: Array
    """[B + 1] first token of each sequence; padding rows hold counts[0]"""
    seq_lens: Array
    """[B] tokens of the sequence, those of this step included; 0 in padding rows"""
    seq_slot: Array
    """[B] request slot"""
    slot_mapping: Array
    """[G, T] where K and V of the token go: page * page_size + offset"""
    page_table: Array
    """[G, B, P] pages of each sequence in order; 0 past its end and behind its window"""
    logit_rows: Array
    """[R] index of the token whose logits are wanted"""
    row_slot: Array
    """[R] slot that takes the sampled token into `state.last_token`; 0 for nobody"""
    sampling: Array
    """[R, ROW_WORDS] see `Row`"""
    edit_row: Array
    """[N] row of each logit edit, N = key.sample.edits. Padding adds 0.0 to row 0, token 0"""
    edit_token: Array
    """[N]"""
    edit_value: Array
    """[N] float32 bits: added to the logit; -inf forbids the token"""
    count_row: Array
    """[M] row of each penalised token, M = key.sample.penalties. Each (row, token) stands once; padding is
    (0, 0) with both counts 0 and does nothing"""
    count_token: Array
    """[M]"""
    count_output: Array
    """[M] times the token was generated"""
    count_seen: Array
    """[M] 1: the token stands in the prompt or the output"""
    plan: Mapping[str, Array] = field(default_factory=dict)
    """what `Attention.plan` filled in, and what `Attention.begin` added"""


@lru_cache(maxsize=4096)
def field_shapes(key: StepKey) -> Shapes:
    """Name and shape of every array of a batch with this key, in buffer order."""
    b, s = key.bucket, key.sample
    T, B, R, G = b.tokens, b.seqs, b.rows, b.groups
    return (
        ("counts", (4,)),
        ("token_ids", (T,)),
        ("positions", (T,)),
        ("token_seq", (T,)),
        ("token_slot", (T,)),
        ("feed", (T,)),
        ("query_start", (B + 1,)),
        ("seq_lens", (B,)),
        ("seq_slot", (B,)),
        ("slot_mapping", (G, T)),
        ("page_table", (G, B, b.pages)),
        ("logit_rows", (R,)),
        ("row_slot", (R,)),
        ("sampling", (R, ROW_WORDS)),
        ("edit_row", (s.edits,)),
        ("edit_token", (s.edits,)),
        ("edit_value", (s.edits,)),
        ("count_row", (s.penalties,)),
        ("count_token", (s.penalties,)),
        ("count_output", (s.penalties,)),
        ("count_seen", (s.penalties,)),
    )


@lru_cache(maxsize=4096)
def _places(key: StepKey, plan_shapes: Shapes) -> tuple[tuple[tuple[str, int, int, tuple[int, ...]], ...], int]:
    """Name, start, end and shape of every array in the buffer, those of the plan last; and the end of all."""
    places, start = [], 0
    for name, shape in (*field_shapes(key), *plan_shapes):
        end = start + math.prod(shape)
        places.append((name, start, end, shape))
        start = end
    return tuple(places), start


def words(key: StepKey, plan_shapes: Shapes = ()) -> int:
    """Length in int32 words of the buffer for this key. `key.static` does not matter."""
    return _places(key, plan_shapes)[1]


def view(buffer: Array, key: StepKey, plan_shapes: Shapes = ()) -> Batch:
    """The batch in `buffer` (a flat int32 array of numpy, torch, JAX or the like, at least `words` long).
    Nothing is copied where slicing and `reshape` do not copy."""
    arrays = [
        (name, buffer[start:end] if len(shape) == 1 else buffer[start:end].reshape(shape))
        for name, start, end, shape in _places(key, plan_shapes)[0]
    ]
    fields = len(arrays) - len(plan_shapes)
    return Batch(key=key, plan=dict(arrays[fields:]), **dict(arrays[:fields]))
