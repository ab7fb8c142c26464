"""Sampling, one row at a time, in float64."""

from __future__ import annotations

import numpy as np

from anychip_sdk.contract import NO_TOKEN, Batch, Row, Sampled
from anychip_sdk.kits.numpy.math import log_softmax


def sample_rows(logits: np.ndarray, batch: Batch) -> Sampled:
    """logits: [R, V] float32. See `Ops.sample`."""
    kind = batch.key.sample
    changed = logits.astype(np.float64)
    if kind.edits:
        np.add.at(changed, (batch.edit_row, batch.edit_token), batch.edit_value.view(np.float32))
    if kind.penalties:
        _penalize(changed, batch)
    tokens = np.array([_pick(row, words) for row, words in zip(changed, batch.sampling, strict=True)], np.int32)
    tokens = tokens.reshape(len(logits))
    tokens[np.isnan(logits).any(axis=-1)] = NO_TOKEN
    return Sampled(tokens) if kind.logprobs is None else _with_logprobs(logits, tokens, batch, kind.logprobs)


def _penalize(logits: np.ndarray, batch: Batch) -> None:
    """In place, for the listed (row, token) pairs."""
    numbers = batch.sampling.view(np.float32)
    for row, token, times, seen in zip(
        batch.count_row, batch.count_token, batch.count_output, batch.count_seen, strict=True
    ):
        if seen:
            repetition = numbers[row, Row.REPETITION]
            value = logits[row, token]
            logits[row, token] = value / repetition if value > 0 else value * repetition
        logits[row, token] -= times * numbers[row, Row.FREQUENCY] + (times > 0) * numbers[row, Row.PRESENCE]


def _pick(row: np.ndarray, words: np.ndarray) -> int:
    """row: [V] float64, words: [ROW_WORDS] -> token."""
    numbers = words.view(np.float32)
    if numbers[Row.TEMPERATURE] == 0 or np.isnan(row).any():
        return int(row.argmax())
    order = np.argsort(-row, kind="stable")  # falling probability, lower id first on ties
    p = np.exp((row[order] - row[order[0]]) / numbers[Row.TEMPERATURE])
    keep = np.ones(len(p), bool)
    if words[Row.TOP_K] > 0:
        keep[words[Row.TOP_K] :] = False
    share = np.where(keep, p, 0) / p[keep].sum()
    before = np.cumsum(share) - share  # probability of the more likely tokens
    keep &= before < numbers[Row.TOP_P]
    keep[0] = True
    keep &= p >= numbers[Row.MIN_P] * p[0]
    kept = np.where(keep, p, 0)
    cumulative = np.cumsum(kept) / kept.sum()
    found = np.flatnonzero(keep & (cumulative > numbers[Row.UNIFORM]))
    return int(order[found[0]] if len(found) else order[np.flatnonzero(kept)[-1]])


def _with_logprobs(logits: np.ndarray, tokens: np.ndarray, batch: Batch, count: int) -> Sampled:
    logprobs = log_softmax(logits.astype(np.float64))  # [R, V]
    targets = batch.sampling[:, Row.TARGET]
    wanted = np.where(targets > 0, targets - 1, np.maximum(tokens, 0))  # [R]
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
