"""Sampling of the kernels against the numpy kit, row by row, with and without the short way over likely tokens."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anychip_sdk.contract import NO_TOKEN, SampleKind
from numpy_batches import SampleRow, sampling_batch
from torch_cases import FILTERS, on_device, sampled

UNIFORMS = (np.arange(60) + 0.5) / 60


@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("size", [300, 301])
@pytest.mark.parametrize("row", FILTERS, ids=str)
def test_every_filter_at_many_points_of_the_distribution(device, row, size, spread):
    logits = np.random.default_rng(3).standard_normal((60, size)) * spread
    got, wanted = sampled(device, logits, [SampleRow(uniform=float(u), **row) for u in UNIFORMS])
    # float32 may fall on the other side of a step of the distribution; not more than once in this many draws
    assert np.count_nonzero(got.tokens.numpy() != wanted.tokens) <= 1


@pytest.mark.parametrize("size", [1, 2, 5000])
def test_each_row_has_its_own_parameters(device, threads, size):
    rng = np.random.default_rng(4)
    rows = [SampleRow(uniform=float(rng.random()), slot=i % 4, **row) for i, row in enumerate(FILTERS)]
    got, wanted = sampled(device, rng.standard_normal((len(rows), size)) * 3, rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()


@pytest.mark.parametrize("row", FILTERS, ids=str)
def test_ties_go_to_the_lower_token(device, row):
    """-0 and 0 are equal, and long runs are."""
    logits = np.repeat(np.float32([2, 0, -0.0, 1]), 100)
    rows = [SampleRow(uniform=float(u), **row) for u in (0.0, 0.2137, 0.5712, 0.8391, 0.9713)]
    got, wanted = sampled(device, np.tile(logits, (5, 1)), rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_infinite_and_nan_rows(device, temperature):
    rest = [-1.0] * 120
    rows = [SampleRow(temperature=temperature, uniform=0.9, slot=s % 4) for s in range(6)]
    logits = [
        [-np.inf, 0, -np.inf, *rest], [0, np.inf, 5, *rest], [-np.inf] * 123, [0, np.nan, 9, *rest], [np.nan] * 123,
        [np.inf, np.inf, *rest, np.nan],
    ]  # fmt: skip
    got, wanted = sampled(device, logits, rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()
    assert got.tokens.tolist()[3:] == [NO_TOKEN] * 3


def test_far_apart_logits(device):
    """The likeliest is certain, and those next to it are next to impossible."""
    logits = np.full(2000, -np.inf)
    logits[[700, 1500]] = 0
    logits[[3, 1999]] = -90
    got, _ = sampled(device, np.tile(logits, (4, 1)), [SampleRow(uniform=u) for u in (0.0, 0.4, 0.6, 0.99999994)])
    assert got.tokens.tolist() == [700, 700, 1500, 1500]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_edits_and_penalties(device, threads, temperature):
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
    got, wanted = sampled(device, rng.standard_normal((40, 20)) * 2, rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()


def test_edits_that_make_nan_fail_the_row(device):
    rows = [SampleRow(temperature=0, edits={1: -np.inf}), SampleRow(temperature=0)]
    assert sampled(device, [[0, np.inf], [0, 1]], rows)[0].tokens.tolist() == [NO_TOKEN, 1]


@pytest.mark.parametrize("size", [20, 33, 3000])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_logprobs(device, threads, size, count):
    """Of the logits as they came, without the edits; equal ones in order of their ids."""
    rng = np.random.default_rng(6)
    rows = [SampleRow(temperature=0, target=t, edits={3: 9.0}) for t in (0, 1, 8, 20)]
    got, wanted = sampled(device, rng.standard_normal((4, size)).round(1), rows, logprobs=count)
    assert got.tokens.tolist() == wanted.tokens.tolist() == [3] * 4
    for name in ("rank", "top_tokens"):
        assert getattr(got, name).tolist() == getattr(wanted, name).tolist()
    for name in ("logprob", "top_logprobs"):
        np.testing.assert_allclose(getattr(got, name).numpy(), getattr(wanted, name), atol=2e-6)


@pytest.mark.parametrize("kind", [SampleKind(), SampleKind(filters=True, logprobs=2)])
def test_no_rows(device, kind):
    host = sampling_batch([], kind.logprobs)
    host.key = replace(host.key, sample=kind)
    state = SimpleNamespace(last_token=torch.zeros(1, dtype=torch.int32))
    got, _ = device.ops.sample(torch.zeros(0, 9), on_device(device, host), state)
    assert got.tokens.shape == (0,)
