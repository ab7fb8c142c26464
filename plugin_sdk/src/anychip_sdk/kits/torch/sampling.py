"""Sampling, vectorised over rows, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from anychip_sdk.contract import NO_TOKEN, Batch, Row, Sampled

CANDIDATES = 512
"""On the host the likeliest tokens are tried before the whole vocabulary is sorted."""


def sample_rows(logits: Tensor, batch: Batch) -> Sampled:
    """logits: [R, V] float32. See `Ops.sample`. A row that edits turn to NaN (inf - inf) gets NO_TOKEN too."""
    kind = batch.key.sample
    changed = logits
    if kind.edits or kind.penalties:
        changed = logits.clone()
        if kind.edits:
            where = (batch.edit_row.long(), batch.edit_token.long())
            changed.index_put_(where, batch.edit_value.view(torch.float32), accumulate=True)
        if kind.penalties:
            _penalize(changed, batch)
    best, tokens = changed.max(dim=-1)  # the first of the largest; a NaN is larger than anything here
    if kind.filters:
        tokens = _filtered(changed, batch)
    tokens = tokens.to(torch.int32).masked_fill_(best.isnan(), NO_TOKEN)
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
    """-> [R] tokens. On the host, only the rows that the likeliest tokens do not settle are sorted; elsewhere looking
    at values would cost a round trip, so every row is."""
    if logits.device.type != "cpu" or logits.shape[1] <= 4 * CANDIDATES:
        return _from_all(logits, batch.sampling)
    tokens, sure = _from_likeliest(logits, batch.sampling)
    rest = (~sure).nonzero()[:, 0]
    if len(rest):
        tokens[rest] = _from_all(logits[rest], batch.sampling[rest])
    return tokens


def _from_all(logits: Tensor, sampling: Tensor) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)  # [R, V]
    place, _ = _choose(ordered, torch.zeros_like(ordered[:, :1]), sampling)
    return order.gather(1, place)[:, 0]


def _from_likeliest(logits: Tensor, sampling: Tensor) -> tuple[Tensor, Tensor]:
    """-> [R] tokens, and [R] which of them are what the whole vocabulary would give."""
    order = logits.topk(CANDIDATES, dim=-1, sorted=False).indices.sort(dim=-1).values
    ordered, places = logits.gather(1, order).sort(dim=-1, descending=True, stable=True)
    order = order.gather(1, places)
    tail = _relative(logits, ordered[:, :1], sampling).scatter_(1, order, 0.0).sum(-1, keepdim=True)
    place, sure = _choose(ordered, tail, sampling)
    # Of tokens that tie with the last candidate some may be missing, so none of them is certain.
    sure &= ordered.gather(1, place) > ordered[:, -1:]
    return order.gather(1, place)[:, 0], sure[:, 0]


def _relative(logits: Tensor, best: Tensor, sampling: Tensor) -> Tensor:
    """Probabilities relative to the best token's: [R, N] -> [R, N]."""
    temperature = sampling.view(torch.float32)[:, Row.TEMPERATURE : Row.TEMPERATURE + 1]
    return ((logits - best) / temperature.clamp_min(1e-10)).exp_()


def _choose(ordered: Tensor, tail: Tensor, sampling: Tensor) -> tuple[Tensor, Tensor]:
    """ordered: [R, N] logits, falling; tail: [R, 1] relative probability of all the tokens that come after them.
    -> place of the chosen one [R, 1], and [R, 1] whether the tail could not have changed it."""
    numbers = sampling.view(torch.float32)
    temperature, top_p, min_p, uniform = (
        numbers[:, c : c + 1] for c in (Row.TEMPERATURE, Row.TOP_P, Row.MIN_P, Row.UNIFORM)
    )  # [R, 1] each
    top_k = sampling[:, Row.TOP_K : Row.TOP_K + 1]
    p = _relative(ordered, ordered[:, :1], sampling)
    cut = (torch.arange(p.shape[1], device=p.device) >= top_k) & (top_k > 0)
    rare = p[:, -1:] < min_p  # then every token of the tail is rarer still
    within = (top_k > 0) & (top_k <= p.shape[1])
    tail = tail.masked_fill(within, 0.0)
    p = p.masked_fill_(cut, 0.0)
    cumulative = p.cumsum(-1)
    total = cumulative[:, -1:] + tail
    drop = (((cumulative - p) / total >= top_p) & (top_p < 1)) | (p < min_p)
    drop[:, 0] = False
    gone = (tail == 0) | rare | ((cumulative[:, -1:] / total >= top_p) & (top_p < 1))
    kept = p.masked_fill_(drop, 0.0).cumsum(-1)
    bound = uniform * (kept[:, -1:] + tail.masked_fill(gone, 0.0))
    place = (kept <= bound).sum(-1, keepdim=True)
    whole = (top_p >= 1) & (min_p == 0)  # the tail is kept as a whole, and its share is known
    greedy = (temperature == 0) | ordered[:, :1].isinf()  # infinite: no probabilities, but still a largest
    known = within | (top_k == 0) | (tail == 0)  # else top_k ends somewhere in the tail
    sure = greedy | (known & (gone | (whole & (bound < kept[:, -1:]))))
    last = (p > 0).sum(-1, keepdim=True) - 1  # kept tokens come first
    return place.minimum(last).masked_fill_(greedy, 0).clamp_min_(0), sure


def _with_logprobs(logits: Tensor, tokens: Tensor, batch: Batch, count: int) -> Sampled:
    logprobs = logits.log_softmax(-1)
    targets = batch.sampling[:, Row.TARGET]
    wanted = torch.where(targets > 0, targets - 1, tokens.clamp_min(0))  # any token where there is none
    chosen = logprobs.gather(1, wanted.long()[:, None])  # [R, 1]
    rank = (logprobs > chosen).sum(-1, dtype=torch.int32) + 1
    top, ids = logprobs.topk(count, dim=-1)
    return Sampled(tokens, chosen[:, 0], rank, ids.to(torch.int32), top)
