"""Sampling, vectorised over rows, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from anychip_sdk.contract import NO_TOKEN, Batch, Row, Sampled


def floats(words: Array) -> Array:
    """int32 words as the float32 whose bits they hold."""
    return lax.bitcast_convert_type(words, jnp.float32)


def sample_rows(logits: Array, batch: Batch) -> Sampled:
    """logits: [R, V] float32. See `Ops.sample`. A row that edits turn to NaN (inf - inf) gets NO_TOKEN too."""
    kind = batch.key.sample
    changed = logits
    if kind.edits:
        changed = changed.at[batch.edit_row, batch.edit_token].add(floats(batch.edit_value))
    if kind.penalties:
        changed = _penalize(changed, batch)
    tokens = _pick(changed, batch.sampling) if kind.filters else jnp.argmax(changed, axis=-1)
    tokens = jnp.where(jnp.isnan(changed).any(axis=-1), NO_TOKEN, tokens).astype(jnp.int32)
    return Sampled(tokens) if kind.logprobs is None else _with_logprobs(logits, tokens, batch, kind.logprobs)


def _penalize(logits: Array, batch: Batch) -> Array:
    """The padding entries repeat (row 0, token 0) with a change of zero, so changes are added up."""
    numbers = floats(batch.sampling)[batch.count_row]  # [M, ROW_WORDS]
    values = logits[batch.count_row, batch.count_token]
    repetition = numbers[:, Row.REPETITION]
    scaled = jnp.where(values > 0, values / repetition, values * repetition)
    change = jnp.where(batch.count_seen == 1, scaled - values, 0.0)
    times = batch.count_output
    change -= times * numbers[:, Row.FREQUENCY] + (times > 0) * numbers[:, Row.PRESENCE]
    change = jnp.where(jnp.isnan(change), 0.0, change)  # a forbidden token (-inf) stays forbidden
    return logits.at[batch.count_row, batch.count_token].add(change)


def _pick(logits: Array, sampling: Array) -> Array:
    """logits: [R, V], sampling: [R, ROW_WORDS] -> [R] tokens."""
    numbers = floats(sampling)
    temperature, top_p, min_p, uniform = (
        numbers[:, c : c + 1] for c in (Row.TEMPERATURE, Row.TOP_P, Row.MIN_P, Row.UNIFORM)
    )  # [R, 1] each
    top_k = sampling[:, Row.TOP_K : Row.TOP_K + 1]
    ids = jnp.broadcast_to(jnp.arange(logits.shape[1]), logits.shape)
    falling, order = lax.sort((-logits, ids), dimension=1, is_stable=True, num_keys=1)  # lower id first on ties
    best = falling[:, :1]
    p = jnp.exp((best - falling) / jnp.maximum(temperature, 1e-10))  # relative to the largest
    p = jnp.where((ids >= top_k) & (top_k > 0), 0.0, p)
    cumulative = jnp.cumsum(p, axis=1)
    before = (cumulative - p) / cumulative[:, -1:]
    drop = ((before >= top_p) & (top_p < 1)) | (p < min_p)
    kept = jnp.where(drop & (ids > 0), 0.0, p)
    summed = jnp.cumsum(kept, axis=1)
    place = jnp.sum(summed <= uniform * summed[:, -1:], axis=1, keepdims=True)
    place = jnp.minimum(place, jnp.sum(kept > 0, axis=1, keepdims=True) - 1)  # kept tokens come first
    greedy = (temperature == 0) | jnp.isinf(best)  # infinite: no probabilities, but still a largest
    place = jnp.where(greedy, 0, jnp.maximum(place, 0))
    return jnp.take_along_axis(order, place, axis=1)[:, 0]


def _with_logprobs(logits: Array, tokens: Array, batch: Batch, count: int) -> Sampled:
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    targets = batch.sampling[:, Row.TARGET]
    wanted = jnp.where(targets > 0, targets - 1, jnp.maximum(tokens, 0))  # any token where there is none
    chosen = jnp.take_along_axis(logprobs, wanted[:, None], axis=1)  # [R, 1]
    rank = 1 + jnp.sum(logprobs > chosen, axis=1)
    top, ids = lax.top_k(logprobs, min(count, logits.shape[1]))
    return Sampled(tokens, chosen[:, 0], rank.astype(jnp.int32), ids.astype(jnp.int32), top)
