"""Sampling as the contract describes it, one row at a time."""

from typing import Any

import numpy as np
from anychip_sdk.contract import NO_TOKEN, Batch, Row, Sampled


def sample_rows(logits: Any, batch: Batch) -> Sampled:
    """logits: [R, V] float32."""
    changed = logits.astype(np.float64)
    for row, token, value in zip(batch.edit_row, batch.edit_token, batch.edit_value.view(np.float32), strict=True):
        changed[row, token] += value
    penalize(changed, batch)
    tokens = np.zeros(len(logits), np.int32)
    for r, words in enumerate(batch.sampling):
        tokens[r] = NO_TOKEN if np.isnan(changed[r]).any() else pick(changed[r], words)
    count = batch.key.sample.logprobs
    return Sampled(tokens) if count is None else with_logprobs(logits.astype(np.float64), tokens, batch, count)


def penalize(logits: Any, batch: Batch) -> None:
    floats = batch.sampling.view(np.float32).astype(np.float64)
    pairs = zip(batch.count_row, batch.count_token, batch.count_output, batch.count_seen, strict=True)
    for row, token, times, seen in pairs:
        if seen:
            repetition = floats[row, Row.REPETITION]
            logits[row, token] *= 1 / repetition if logits[row, token] > 0 else repetition
        if times:
            logits[row, token] -= times * floats[row, Row.FREQUENCY] + floats[row, Row.PRESENCE]


def pick(row: Any, words: Any) -> int:
    """row: [V] -> token."""
    floats = words.view(np.float32).astype(np.float64)
    if floats[Row.TEMPERATURE] == 0 or np.isinf(row.max()):
        return int(row.argmax())
    order = np.argsort(-row, kind="stable")
    p = np.exp((row[order] - row.max()) / floats[Row.TEMPERATURE])
    if words[Row.TOP_K] > 0:
        p[words[Row.TOP_K] :] = 0
    share = p / p.sum()
    p[1:][(np.cumsum(share) - share)[1:] >= floats[Row.TOP_P]] = 0
    p[p < floats[Row.MIN_P]] = 0
    above = np.flatnonzero(np.cumsum(p / p.sum()) > floats[Row.UNIFORM])
    return int(order[above[0] if len(above) else np.flatnonzero(p)[-1]])


def with_logprobs(logits: Any, tokens: Any, batch: Batch, count: int) -> Sampled:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    targets = batch.sampling[:, Row.TARGET]
    wanted = np.where(targets > 0, targets - 1, np.maximum(tokens, 0))
    chosen = np.take_along_axis(logprobs, wanted[:, None], axis=-1)
    top = np.argsort(-logprobs, axis=-1, kind="stable")[:, :count]
    return Sampled(
        tokens,
        chosen[:, 0].astype(np.float32),
        (1 + (logprobs > chosen).sum(axis=-1)).astype(np.int32),
        top.astype(np.int32),
        np.take_along_axis(logprobs, top, axis=-1).astype(np.float32),
    )
