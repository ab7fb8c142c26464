"""Sampling of the torch kit against the numpy kit, row by row, with and without the short way over likely tokens."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anychip_sdk.contract import NO_TOKEN, Row, SampleKind
from anychip_sdk.kits.torch import sampling
from numpy_batches import SampleRow, sampling_batch
from torch_cases import FILTERS, kit_device, on_device, sampled

torch.set_num_threads(1)
DEVICE = kit_device()


def sample(logits, rows, logprobs=None, filters=True):
    return sampled(DEVICE, logits, rows, logprobs, filters)


@pytest.fixture(params=["short way", "sort"])
def way(request, monkeypatch):
    monkeypatch.setattr(sampling, "CANDIDATES", 16 if request.param == "short way" else 10**6)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("row", FILTERS, ids=str)
def test_every_filter_at_many_points_of_the_distribution(row, spread):
    rng = np.random.default_rng(3)
    uniforms = (np.arange(60) + 0.5) / 60
    logits = rng.standard_normal((60, 300)) * spread
    got, wanted = sample(logits, [SampleRow(uniform=float(u), **row) for u in uniforms])
    differ = np.flatnonzero(got.tokens.numpy() != wanted.tokens)
    # float32 may fall on the other side of a step of the distribution; not more than once in this many draws
    assert len(differ) <= 1


@pytest.mark.usefixtures("way")
def test_each_row_has_its_own_parameters():
    rng = np.random.default_rng(4)
    rows = [SampleRow(uniform=float(rng.random()), slot=i % 4, **row) for i, row in enumerate(FILTERS)]
    got, wanted = sample(rng.standard_normal((len(rows), 300)) * 3, rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("row", FILTERS, ids=str)
def test_ties_go_to_the_lower_token(row):
    """Whole runs of equal logits, longer than the list of candidates, so the short way must notice."""
    logits = np.repeat(np.float32([2, 0, 1]), 100)
    rows = [SampleRow(uniform=float(u), **row) for u in (0.0, 0.2137, 0.5712, 0.8391, 0.9713)]
    got, wanted = sample(np.tile(logits, (5, 1)), rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("filters", [True, False])
def test_infinite_and_nan_rows(temperature, filters):
    if temperature and not filters:
        return
    rest = [-1.0] * 120
    rows = [SampleRow(temperature=temperature, uniform=0.9, slot=s % 4) for s in range(6)]
    logits = [
        [-np.inf, 0, -np.inf, *rest], [0, np.inf, 5, *rest], [-np.inf] * 123, [0, np.nan, 9, *rest], [np.nan] * 123,
        [np.inf, np.inf, np.nan, *rest],
    ]  # fmt: skip
    got, wanted = sample(logits, rows, filters=filters)
    assert got.tokens.tolist() == wanted.tokens.tolist()
    assert got.tokens.tolist()[3:] == [NO_TOKEN] * 3


def test_a_forbidden_vocabulary_but_for_two():
    logits = np.full(2000, -np.inf)
    logits[[700, 1500]] = 0
    got, _ = sample(np.tile(logits, (4, 1)), [SampleRow(uniform=u) for u in (0.0, 0.4, 0.6, 0.99999994)])
    assert got.tokens.tolist() == [700, 700, 1500, 1500]


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
    assert got.tokens.tolist() == wanted.tokens.tolist()


def test_padding_of_the_lists_does_not_undo_row_0_token_0():
    row = SampleRow(temperature=0, presence=5.0, edits={0: 2.0}, counts={0: (1, 1)})
    assert sample([[3, 1, 2]], [row], filters=False)[0].tokens.tolist() == [2]


def test_edits_that_make_nan_fail_the_row():
    rows = [SampleRow(temperature=0, edits={1: -np.inf}), SampleRow(temperature=0)]
    assert sample([[0, np.inf], [0, 1]], rows, filters=False)[0].tokens.tolist() == [NO_TOKEN, 1]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_logprobs(count):
    rng = np.random.default_rng(6)
    rows = [SampleRow(temperature=0, target=t, edits={3: 9.0}) for t in (0, 1, 8)]
    got, wanted = sample(rng.standard_normal((3, 30)), rows, logprobs=count, filters=False)
    assert got.top_tokens.shape == (3, count)
    for name in ("rank", "top_tokens"):
        value = getattr(got, name)
        assert value.dtype == torch.int32
        assert value.tolist() == getattr(wanted, name).tolist()
    for name in ("logprob", "top_logprobs"):
        np.testing.assert_allclose(getattr(got, name).numpy(), getattr(wanted, name), atol=1e-6)


@pytest.mark.parametrize("kind", [SampleKind(), SampleKind(filters=True, logprobs=2)])
def test_no_rows(kind):
    host = sampling_batch([], kind.logprobs)
    host.key = replace(host.key, sample=kind)
    state = SimpleNamespace(last_token=torch.zeros(1, dtype=torch.int32))
    got, _ = DEVICE.ops.sample(torch.zeros(0, 9), on_device(DEVICE, host), state)
    assert got.tokens.shape == (0,)


def test_rows_of_padding_are_harmless():
    """A zero row is temperature 0, top_p 0, uniform 0 and slot 0."""
    host = sampling_batch([SampleRow(uniform=0.3), SampleRow(uniform=0.3)])
    host.sampling[1] = 0
    state = SimpleNamespace(last_token=torch.full((4,), 7, dtype=torch.int32))
    got, _ = DEVICE.ops.sample(torch.zeros(2, 9), on_device(DEVICE, host), state)
    assert got.tokens.tolist()[1] == 0
    assert state.last_token[1:].tolist() == [7, 7, 7]
    assert host.sampling[0].view(np.float32)[Row.UNIFORM] == np.float32(0.3)
