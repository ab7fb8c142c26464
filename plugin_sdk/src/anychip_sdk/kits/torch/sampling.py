"""Sampling, vectorised over rows, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from anychip_sdk.contract import NO_TOKEN, Batch, Row, Sampled


def sample_rows(logits: Tensor, batch: Batch) -> Sampled:
    """logits: [R, V] float32. See `Ops.sample`."""
    kind = batch.key.sample
    best, tokens = logits.max(dim=-1)  # a NaN is larger than anything here: best tells of it
    bad = best.isnan()
    if kind.edits or kind.penalties or kind.filters:
        changed = logits.clone()
        if kind.edits:
            where = (batch.edit_row.long(), batch.edit_token.long())
            changed.index_put_(where, batch.edit_value.view(torch.float32), accumulate=True)
        if kind.penalties:
            _penalize(changed, batch)
        tokens = _filtered(changed, batch) if kind.filters else changed.argmax(-1)
    tokens = tokens.to(torch.int32).masked_fill_(bad, NO_TOKEN)
    return Sampled(tokens) if kind.logprobs is None else _with_logprobs(logits, tokens, batch, kind.logprobs)


def _penalize(logits: Tensor, batch: Batch) -> None:
    """In place. The padding entries repeat (row 0, token 0) with a change of zero, so changes are added up."""
    rows, tokens = batch.count_row.long(), batch.count_token.long()
    numbers = batch.sampling.view(torch.float32)[rows]  # [M, ROW_WORDS]
    values = logits[rows, tokens]
    repetition = numbers[:, Row.REPETITION]
    scaled = torch.where(values > 0, values / repetition, values * repetition)
    change = torch.where(batch.count_seen == 1, scaled - values, 0.0)
    times = batch.count_output
    change -= times * numbers[:, Row.FREQUENCY] + (times > 0) * numbers[:, Row.PRESENCE]
    change.nan_to_num_(nan=0.0)  # a forbidden token (-inf) stays forbidden
    logits.index_put_((rows, tokens), change, accumulate=True)


def _filtered(logits: Tensor, batch: Batch) -> Tensor:
    """-> [R] tokens. Rows of temperature 0 take the largest."""
    numbers = batch.sampling.view(torch.float32)
    temperature = numbers[:, Row.TEMPERATURE : Row.TEMPERATURE + 1]  # [R, 1]
    top_k = batch.sampling[:, Row.TOP_K : Row.TOP_K + 1]
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)  # [R, V]
    p = ((ordered - ordered[:, :1]) / temperature.clamp_min(1e-10)).exp()
    place = torch.arange(p.shape[1], device=p.device)
    p = p.masked_fill((place >= top_k) & (top_k > 0), 0.0)
    cumulative = p.cumsum(-1)
    before = (cumulative - p) / cumulative[:, -1:]
    drop = (before >= numbers[:, Row.TOP_P : Row.TOP_P + 1]) | (p < numbers[:, Row.MIN_P : Row.MIN_P + 1] * p[:, :1])
    drop[:, 0] = False
    p = p.masked_fill(drop, 0.0)
    cumulative = p.cumsum(-1)
    bound = numbers[:, Row.UNIFORM : Row.UNIFORM + 1] * cumulative[:, -1:]
    last = (p > 0).sum(-1, keepdim=True) - 1  # kept tokens come first
    chosen = (cumulative <= bound).sum(-1, keepdim=True).minimum(last).clamp_min_(0)  # last is -1 for a row of NaN
    chosen = chosen.masked_fill(temperature == 0, 0)
    return order.gather(1, chosen)[:, 0]


def _with_logprobs(logits: Tensor, tokens: Tensor, batch: Batch, count: int) -> Sampled:
    logprobs = logits.log_softmax(-1)
    targets = batch.sampling[:, Row.TARGET]
    wanted = torch.where(targets > 0, targets - 1, tokens.clamp_min(0))
    chosen = logprobs.gather(1, wanted.long()[:, None])  # [R, 1]
    rank = (logprobs > chosen).sum(-1, dtype=torch.int32) + 1
    top, ids = logprobs.topk(count, dim=-1)
    return Sampled(tokens, chosen[:, 0], rank, ids.to(torch.int32), top)
