"""Sampling, one row at a time, in float64."""

from __future__ import annotations

import numpy as np

from anychip_sdk.contract import NO_TOKEN, Batch, Row, Sampled
from anychip_sdk.kits.numpy.math import log_softmax


def sample_rows(logits: np.ndarray, batch: Batch) -> Sampled:
    """logits: [R, V] float32. See `Ops.sample`. A row that edits turn to NaN (inf - inf) gets NO_TOKEN too."""
    changed = logits.astype(np.float64)
    _edit(changed, batch)
    _penalize(changed, batch)
    tokens = np.zeros(len(logits), np.int32)
    for r in range(len(logits)):
        tokens[r] = NO_TOKEN if np.isnan(changed[r]).any() else _pick(changed[r], batch.sampling[r])
    count = batch.key.sample.logprobs
    return Sampled(tokens) if count is None else _with_logprobs(logits, tokens, batch, count)


def _edit(logits: np.ndarray, batch: Batch) -> None:
    """In place."""
    values = batch.edit_value.view(np.float32)
    for row, token, value in zip(batch.edit_row, batch.edit_token, values, strict=True):
        logits[row, token] += value


def _penalize(logits: np.ndarray, batch: Batch) -> None:
    """In place, for the listed (row, token) pairs. Padding has both counts 0 and changes nothing."""
    floats = batch.sampling.view(np.float32).astype(np.float64)  # [R, ROW_WORDS]
    for row, token, times, seen in zip(
        batch.count_row, batch.count_token, batch.count_output, batch.count_seen, strict=True
    ):
        value = logits[row, token]
        if seen:
            repetition = floats[row, Row.REPETITION]
            value = value / repetition if value > 0 else value * repetition
        if times > 0:
            value -= times * floats[row, Row.FREQUENCY] + floats[row, Row.PRESENCE]
        logits[row, token] = value


def _pick(row: np.ndarray, words: np.ndarray) -> int:
    """row: [V] float64 without NaN, words: [ROW_WORDS] -> token."""
    floats = words.view(np.float32).astype(np.float64)
    best = row.max()
    if floats[Row.TEMPERATURE] == 0 or np.isinf(best):  # infinite: no probabilities, but still a largest
        return int(row.argmax())
    order = np.argsort(-row, kind="stable")  # falling probability, lower id first on ties
    p = np.exp((row[order] - best) / floats[Row.TEMPERATURE])  # relative to the largest
    if words[Row.TOP_K] > 0:
        p[words[Row.TOP_K] :] = 0
    share = p / p.sum()
    before = np.cumsum(share) - share  # probability of the more likely ones: where it reaches top_p, they suffice
    p[1:][before[1:] >= floats[Row.TOP_P]] = 0
    p[p < floats[Row.MIN_P]] = 0
    cumulative = np.cumsum(p / p.sum())
    found = np.flatnonzero(cumulative > floats[Row.UNIFORM])
    last = np.flatnonzero(p)[-1]  # where rounding keeps the sum at or below UNIFORM
    return int(order[found[0] if len(found) else last])


def _with_logprobs(logits: np.ndarray, tokens: np.ndarray, batch: Batch, count: int) -> Sampled:
    logprobs = log_softmax(logits.astype(np.float64))  # [R, V]
    targets = batch.sampling[:, Row.TARGET]
    wanted = np.where(targets > 0, targets - 1, np.maximum(tokens, 0))  # [R]; any token where there is none
    chosen = np.take_along_axis(logprobs, wanted[:, None], axis=-1)  # [R, 1]
    rank = 1 + (logprobs > chosen).sum(axis=-1)
    top = np.argsort(-logprobs, axis=-1, kind="stable")[:, :count]  # [R, N]
    return Sampled(
        tokens,
        chosen[:, 0].astype(np.float32),
        rank.astype(np.int32),
        top.astype(np.int32),
        np.take_along_axis(logprobs, top, axis=-1).astype(np.float32),
    )
