"""Sampling of the JAX kit against the numpy kit, row by row: the same numbers give the same tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from anychip_sdk.contract import NO_TOKEN, SampleKind, view
from anychip_sdk.kits.jax.device import JaxState
from jax_cases import ORACLE, kit_device, words_of
from numpy_batches import SampleRow, sampling_batch

DEVICE = kit_device()
FILTERS = [
    {}, {"top_k": 1}, {"top_k": 5}, {"top_k": 60}, {"top_k": 10**6}, {"top_p": 0.01}, {"top_p": 0.5}, {"top_p": 0.95},
    {"min_p": 0.02}, {"min_p": 0.5}, {"min_p": 1.0}, {"top_k": 20, "top_p": 0.7}, {"top_p": 0.9, "min_p": 0.05},
    {"top_k": 7, "top_p": 0.8, "min_p": 0.1}, {"temperature": 0.0}, {"temperature": 0.3}, {"temperature": 3.0},
    {"temperature": 3.0, "top_p": 0.9}, {"temperature": 3.0, "min_p": 0.01}, {"temperature": 1e-30},
]  # fmt: skip


@cache
def program(key):
    """One compilation for each key."""

    def run(buffer, logits, last_token):
        sampled, state = DEVICE.ops.sample(logits, view(buffer, key), JaxState(last_token))
        return vars(sampled), state.last_token

    return jax.jit(run)


def sample(logits, rows, logprobs=None, filters=True):
    """-> the kit's result and the oracle's, on equal batches and states."""
    host = sampling_batch(rows, logprobs, pad_lists=3)
    host.key = replace(host.key, sample=replace(host.key.sample, filters=filters))
    logits = np.array(logits, np.float32).reshape(len(rows), -1)
    got, last_token = program(host.key)(words_of(host), logits, np.zeros(4, np.int32))
    theirs = ORACLE.state(4)
    with np.errstate(invalid="ignore"):
        wanted, _ = ORACLE.ops.sample(logits, host, theirs)
    assert got["tokens"].dtype == np.int32
    assert last_token[1:].tolist() == theirs.last_token[1:].tolist()
    return got, wanted


@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("row", FILTERS, ids=str)
def test_every_filter_at_many_points_of_the_distribution(row, spread):
    rng = np.random.default_rng(3)
    uniforms = (np.arange(60) + 0.5) / 60
    logits = rng.standard_normal((60, 300)) * spread
    got, wanted = sample(logits, [SampleRow(uniform=float(u), **row) for u in uniforms])
    differ = np.flatnonzero(np.asarray(got["tokens"]) != wanted.tokens)
    # float32 may fall on the other side of a step of the distribution; not more than once in this many draws
    assert len(differ) <= 1


def test_each_row_has_its_own_parameters():
    rng = np.random.default_rng(4)
    rows = [SampleRow(uniform=float(rng.random()), slot=i % 4, **row) for i, row in enumerate(FILTERS)]
    got, wanted = sample(rng.standard_normal((len(rows), 300)) * 3, rows)
    assert got["tokens"].tolist() == wanted.tokens.tolist()


@pytest.mark.parametrize("row", FILTERS, ids=str)
def test_ties_go_to_the_lower_token(row):
    logits = np.repeat(np.float32([2, 0, 1]), 100)
    rows = [SampleRow(uniform=float(u), **row) for u in (0.0, 0.2137, 0.5712, 0.8391, 0.9713)]
    got, wanted = sample(np.tile(logits, (5, 1)), rows)
    assert got["tokens"].tolist() == wanted.tokens.tolist()


@pytest.mark.parametrize(("temperature", "filters"), [(0.0, True), (1.0, True), (0.0, False)])
def test_infinite_and_nan_rows(temperature, filters):
    rows = [SampleRow(temperature=temperature, uniform=0.9) for _ in range(6)]
    logits = [
        [-np.inf, 0, -np.inf, -1], [0, np.inf, 5, -1], [-np.inf] * 4, [0, np.nan, 9, -1], [np.nan] * 4,
        [np.inf, np.inf, np.nan, -1],
    ]  # fmt: skip
    got, wanted = sample(logits, rows, filters=filters)
    assert got["tokens"].tolist() == wanted.tokens.tolist()
    assert got["tokens"].tolist()[3:] == [NO_TOKEN] * 3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_edits_and_penalties(temperature):
    rng = np.random.default_rng(5)
    values = [-np.inf, 1.5, -2, 3, -np.inf]
    rows = [
        SampleRow(
            temperature=temperature, uniform=float(rng.random()), top_k=3, repetition=float(rng.uniform(0.5, 2)),
            presence=float(rng.normal()), frequency=float(rng.normal()),
            edits={int(t): float(v) for t, v in zip(rng.permutation(20)[:5], values, strict=True)},
            counts={int(t): (int(rng.integers(0, 4)), int(rng.integers(0, 2))) for t in rng.permutation(20)[:6]},
        )
        for _ in range(40)
    ]  # fmt: skip
    got, wanted = sample(rng.standard_normal((40, 20)) * 2, rows, filters=temperature > 0)
    assert got["tokens"].tolist() == wanted.tokens.tolist()


def test_padding_of_the_lists_does_not_undo_row_0_token_0():
    row = SampleRow(temperature=0, presence=5.0, edits={0: 2.0}, counts={0: (1, 1)})
    assert sample([[3, 1, 2]], [row], filters=False)[0]["tokens"].tolist() == [2]


def test_edits_that_make_nan_fail_the_row():
    rows = [SampleRow(temperature=0, edits={1: -np.inf}), SampleRow(temperature=0)]
    assert sample([[0, np.inf], [0, 1]], rows, filters=False)[0]["tokens"].tolist() == [NO_TOKEN, 1]


@pytest.mark.parametrize("count", [0, 5])
def test_logprobs(count):
    rng = np.random.default_rng(6)
    rows = [SampleRow(temperature=0, target=t, edits={3: 9.0}) for t in (0, 1, 8)]
    got, wanted = sample(rng.standard_normal((3, 30)), rows, logprobs=count, filters=False)
    assert got["top_tokens"].shape == (3, count)
    for name in ("rank", "top_tokens"):
        assert got[name].dtype == np.int32
        assert got[name].tolist() == getattr(wanted, name).tolist()
    for name in ("logprob", "top_logprobs"):
        np.testing.assert_allclose(got[name], getattr(wanted, name), atol=1e-6)


def test_rows_of_padding_are_harmless():
    """A zero row is temperature 0, top_p 0, uniform 0 and slot 0."""
    host = sampling_batch([SampleRow(uniform=0.3), SampleRow(uniform=0.3)])
    host.sampling[1] = 0
    host.key = replace(host.key, sample=SampleKind(filters=True))
    got, last_token = program(host.key)(words_of(host), np.zeros((2, 9), np.float32), np.full(4, 7, np.int32))
    assert got["tokens"].tolist()[1] == 0
    assert last_token[1:].tolist() == [7, 7, 7]
