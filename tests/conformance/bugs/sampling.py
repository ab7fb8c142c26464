"""Bugs of sampling: each changes one line of the numpy kit's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anychip_sdk.contract import NO_TOKEN, Row
from anychip_sdk.kits.numpy import sampling
from anychip_sdk.kits.numpy.math import log_softmax

from bugs.registry import bug


def by_hand(device, *, top_p=None, top_k=0, min_p=None, uniform=None):
    """The kit's choice of a token, with one of its parts replaced. top_p: drops from probabilities in falling order."""

    def pick(row, words):
        floats = words.view(np.float32).astype(np.float64)
        if floats[Row.TEMPERATURE] == 0:
            return int(row.argmax())
        order = np.argsort(-row, kind="stable")
        p = np.exp((row[order] - row.max()) / floats[Row.TEMPERATURE])
        if words[Row.TOP_K] > 0:
            p[words[Row.TOP_K] + top_k :] = 0
        share = p / p.sum()
        if top_p is not None:
            p[1:][top_p(share, floats[Row.TOP_P])[1:]] = 0
        else:
            p[1:][(np.cumsum(share) - share)[1:] >= floats[Row.TOP_P]] = 0
        p[(p if min_p is None else min_p(p)) < floats[Row.MIN_P]] = 0
        if not p.any():
            p[0] = 1
        found = np.flatnonzero(np.cumsum(p / p.sum()) > floats[Row.UNIFORM])
        return int(order[found[0] if len(found) else np.flatnonzero(p)[-1]])

    right = device.ops.sample

    def sample(logits, batch, state):
        kept, sampling._pick = sampling._pick, pick
        try:
            return right(logits, uniform(batch) if uniform else batch, state)
        finally:
            sampling._pick = kept

    device.ops.sample = sample


@bug("sampling", "top-p leaves out the token that reaches it")
def top_p_one_early(device):
    by_hand(device, top_p=lambda share, p: np.cumsum(share) >= p)


@bug("sampling", "top-k keeps one token too many")
def top_k_one_too_many(device):
    by_hand(device, top_k=1)


@bug("sampling", "min-p is a share of all, not of the largest probability")
def min_p_of_the_sum(device):
    by_hand(device, min_p=lambda p: p / p.sum())


@bug("sampling", "every row of a batch takes the first one's random number")
def one_random_number_for_all(device):
    def shared(batch):
        sampling = batch.sampling.copy()
        sampling[:, Row.UNIFORM] = sampling[0, Row.UNIFORM]
        return replace(batch, sampling=sampling)

    by_hand(device, uniform=shared)


def before(device, change):
    """Samples from what `change(logits, batch)` makes of the logits."""
    right = device.ops.sample
    device.ops.sample = lambda logits, batch, state: right(change(logits, batch), batch, state)


@bug("sampling", "of equal logits the last wins")
def last_of_equals(device):
    before(device, lambda logits, batch: logits + np.arange(logits.shape[1], dtype=np.float32) * 1e-5)


@bug("sampling", "NaN counts as a very small logit")
def nan_swallowed(device):
    before(device, lambda logits, batch: np.nan_to_num(logits, nan=-1e9))


@bug("sampling", "the repetition penalty divides negative logits too")
def repetition_divides_always(device):
    def sample(logits, batch, state):
        changed = logits.astype(np.float64)
        sampling._edit(changed, batch)
        floats = batch.sampling.view(np.float32)
        for row, token, seen in zip(batch.count_row, batch.count_token, batch.count_seen, strict=True):
            if seen:
                changed[row, token] /= floats[row, Row.REPETITION]
        names = ("edit_row", "edit_token", "edit_value", "count_row", "count_token", "count_output", "count_seen")
        none = dict.fromkeys(names, np.zeros(0, np.int32))
        return right(changed.astype(np.float32), replace(batch, **none), state)

    right = device.ops.sample
    device.ops.sample = sample


@bug("sampling", "logprobs are those of the biased logits")
def logprobs_after_the_bias(device):
    right = device.ops.sample

    def sample(logits, batch, state):
        got, state = right(logits, batch, state)
        if got.logprob is None:
            return got, state
        biased = logits.astype(np.float64)
        sampling._edit(biased, batch)
        rows = np.arange(len(logits))
        tokens = np.where(batch.sampling[:, Row.TARGET] > 0, batch.sampling[:, Row.TARGET] - 1, got.tokens)
        return replace(got, logprob=log_softmax(biased)[rows, tokens].astype(np.float32)), state

    device.ops.sample = sample


@bug("sampling", "the sampled token is kept under the row's number, not in its slot")
def token_in_the_wrong_slot(device):
    right = device.ops.sample

    def sample(logits, batch, state):
        rows = np.arange(len(batch.row_slot), dtype=np.int32) % len(state.last_token)
        return right(logits, replace(batch, row_slot=rows), state)

    device.ops.sample = sample


@bug("sampling", "one row of NaN fails the whole batch")
def nan_fails_all(device):
    right = device.ops.sample

    def sample(logits, batch, state):
        got, state = right(logits, batch, state)
        tokens = np.full_like(got.tokens, NO_TOKEN) if np.isnan(logits).any() else got.tokens
        return replace(got, tokens=tokens), state

    device.ops.sample = sample
