"""Host batches as the core lays them out, at exact shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anychip_sdk.contract import Batch, Bucket, Row, SampleKind, Shapes, StepKey, view, words

GREEDY = SampleKind()

Ids = Sequence[int] | NDArray[Any]
"""Token ids by position."""

Span = tuple[int, int]
"""A sequence in a step: tokens computed before it, tokens of this step."""


def empty(key: StepKey) -> Batch:
    return view(np.zeros(words(key), np.int32), key)


def rows(count: int, sample: SampleKind = GREEDY, ids: Ids | None = None, logit_rows: int | None = None) -> Batch:
    """`count` tokens of as many sequences, ids 0, 1, 2 ... unless given, for ops that look at rows only. The first
    `logit_rows` of them have a logit row, None: all."""
    wanted = count if logit_rows is None else logit_rows
    batch = empty(StepKey(Bucket(count, count, 1, wanted, True), sample))
    batch.counts[:] = (count, count, wanted, count)
    batch.token_ids[:] = np.arange(count) if ids is None else ids
    batch.token_seq[:], batch.logit_rows[:] = np.arange(count), np.arange(wanted)
    batch.query_start[:] = np.arange(count + 1)
    batch.seq_lens[:] = 1
    return batch


def place(lengths: Sequence[int], page_size: int, order: np.ndarray | None = None) -> list[list[int]]:
    """Pages for sequences of these lengths: 1, 2, 3 ..., or `order` of them."""
    counts = [-(-n // page_size) for n in lengths]
    pages = np.arange(1, sum(counts) + 1) if order is None else order
    return [[int(p) for p in part] for part in np.split(pages, np.cumsum(counts)[:-1])]


def ragged(
    spans: Sequence[Span],
    tables: Sequence[Sequence[Sequence[int]]],
    page_size: int,
    ids: Sequence[Ids],
    sample: SampleKind = GREEDY,
) -> Batch:
    """spans: decodes (one token) before prefills. tables: for every KV group, the pages of every sequence. ids: of
    the whole sequences, by position. Every token gets a logit row."""
    T, B, G = sum(n for _, n in spans), len(spans), len(tables)
    columns = max(len(pages) for group in tables for pages in group)
    decodes = next((i for i, (_, n) in enumerate(spans) if n != 1), B)
    batch = empty(StepKey(Bucket(T, B, columns, T, decodes == B, G), sample))
    batch.counts[:] = (T, B, T, decodes)
    batch.logit_rows[:] = np.arange(T)
    at = 0
    for i, (computed, new) in enumerate(spans):
        span, positions = slice(at, at + new), np.arange(computed, computed + new)
        batch.positions[span], batch.token_seq[span] = positions, i
        batch.token_ids[span] = np.asarray(ids[i], np.int32)[positions]
        batch.token_slot[span] = batch.seq_slot[i] = i + 1
        batch.query_start[i + 1], batch.seq_lens[i] = at + new, computed + new
        for g, group in enumerate(tables):
            batch.page_table[g, i, : len(group[i])] = group[i]
            pages = np.asarray(group[i], np.int32)[positions // page_size]
            batch.slot_mapping[g, span] = pages * page_size + positions % page_size
        at += new
    return batch


@dataclass
class SampleRow:
    """Sampling parameters of one row, as `Row` has them; `slot` takes the token."""

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    uniform: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    top_k: int = 0
    target: int = 0
    slot: int = 0
    edits: dict[int, float] = field(default_factory=dict)
    counts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """token -> times generated, seen"""


def sampling(asked: Sequence[SampleRow], logprobs: int | None = None) -> Batch:
    """One token and one logit row for each."""
    edits = [(r, t, v) for r, row in enumerate(asked) for t, v in row.edits.items()]
    counts = [(r, t, *c) for r, row in enumerate(asked) for t, c in row.counts.items()]
    kind = SampleKind(any(r.temperature > 0 for r in asked), _padded(len(counts)), _padded(len(edits)), logprobs)
    batch = rows(len(asked), kind)
    floats = batch.sampling.view(np.float32)
    for r, row in enumerate(asked):
        floats[r, : Row.TOP_K] = (
            row.temperature, row.top_p, row.min_p, row.uniform, row.repetition, row.presence, row.frequency,
        )  # fmt: skip
        batch.sampling[r, Row.TOP_K], batch.sampling[r, Row.TARGET] = row.top_k, row.target
        batch.row_slot[r] = row.slot
    for i, (r, token, value) in enumerate(edits):
        batch.edit_row[i], batch.edit_token[i] = r, token
        batch.edit_value.view(np.float32)[i] = value
    for i, (r, token, times, seen) in enumerate(counts):
        batch.count_row[i], batch.count_token[i], batch.count_output[i], batch.count_seen[i] = r, token, times, seen
    return batch


def _padded(count: int) -> int:
    return 0 if count == 0 else 1 << (count - 1).bit_length()


def copy_into(target: Batch, source: Batch) -> None:
    """Writes an exact batch into a zeroed one of the same or a larger bucket."""
    for name, array in arrays(source).items():
        getattr(target, name)[tuple(slice(n) for n in array.shape)] = array
    target.query_start[len(source.query_start) :] = source.counts[0]


def arrays(batch: Batch) -> dict[str, Any]:
    return {name: array for name, array in vars(batch).items() if name not in ("key", "plan")}


def lend_and_fill(lend: Any, key: StepKey, plan_shapes: Shapes, exact: Batch) -> tuple[np.ndarray, Batch]:
    """A lent buffer with the batch in it, and its view. `key` may have a larger bucket than the exact batch."""
    buffer: np.ndarray = lend(words(key, plan_shapes))
    batch = view(buffer, key, plan_shapes)
    copy_into(batch, exact)
    return buffer, batch
