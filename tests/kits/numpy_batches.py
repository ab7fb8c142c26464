"""Host batches for tests of the numpy kit: ragged ones for attention, rows for sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from anychip_sdk.contract import Batch, Bucket, Row, SampleKind, StepKey, view, words


def empty_batch(key: StepKey) -> Batch:
    return view(np.zeros(words(key), np.int32), key)


def page_tables(lengths: Sequence[int], page_size: int, order: np.ndarray | None = None) -> list[list[int]]:
    """Pages for sequences of these lengths, from 1 on, in `order` (a permutation of the pages in use) if given."""
    counts = [-(-n // page_size) for n in lengths]
    pages = np.arange(1, sum(counts) + 1) if order is None else order
    return [list(map(int, part)) for part in np.split(pages, np.cumsum(counts)[:-1])] if counts else []


def ragged(
    steps: Sequence[tuple[int, int]],
    tables: Sequence[list[int]],
    page_size: int,
    pad_tokens: int = 0,
    pad_seqs: int = 0,
) -> Batch:
    """steps: (tokens computed before, tokens new) of each sequence; tables: its pages."""
    T, B = sum(new for _, new in steps), len(steps)
    columns = max((len(t) for t in tables), default=0)
    batch = empty_batch(StepKey(Bucket(T + pad_tokens, B + pad_seqs, columns, 0, False)))
    batch.counts[:] = (T, B, 0, 0)
    start = 0
    for i, (computed, new) in enumerate(steps):
        positions = np.arange(computed, computed + new)
        at = slice(start, start + new)
        batch.positions[at], batch.token_seq[at] = positions, i
        batch.query_start[i], batch.seq_lens[i] = start, computed + new
        batch.page_table[0, i, : len(tables[i])] = tables[i]
        pages = np.array(tables[i], np.int32)[positions // page_size]
        batch.slot_mapping[0, at] = pages * page_size + positions % page_size
        start += new
    batch.query_start[B:] = T
    return batch


@dataclass
class SampleRow:
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
    """token -> (times generated, seen)"""


def sampling_batch(rows: Sequence[SampleRow], logprobs: int | None = None, pad_lists: int = 0) -> Batch:
    """pad_lists: entries of padding after the edits and counts."""
    edits = [(r, t, v) for r, row in enumerate(rows) for t, v in row.edits.items()]
    counts = [(r, t, *c) for r, row in enumerate(rows) for t, c in row.counts.items()]
    kind = SampleKind(True, len(counts) + pad_lists, len(edits) + pad_lists, logprobs)
    batch = empty_batch(StepKey(Bucket(len(rows), len(rows), 1, len(rows), True), kind))
    floats = batch.sampling.view(np.float32)
    for r, row in enumerate(rows):
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
