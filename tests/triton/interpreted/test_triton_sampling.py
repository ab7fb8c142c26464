"""Sampling against the numpy kit, row by row: the same tokens."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anychip_sdk.contract import NO_TOKEN, Row, SampleKind
from anychip_sdk.kits.triton import sampling
from numpy_batches import SampleRow, sampling_batch
from torch_cases import ORACLE, on_device
from triton_device import triton_device

torch.set_num_threads(1)
DEVICE = triton_device()
SLOTS = 16
FILTERS = [
    {}, {"top_k": 1}, {"top_k": 5}, {"top_k": 10**6}, {"top_p": 0.01}, {"top_p": 0.95}, {"min_p": 0.02}, {"min_p": 1.0},
    {"top_k": 60, "top_p": 0.7}, {"top_p": 0.9, "min_p": 0.05}, {"top_k": 7, "top_p": 0.8, "min_p": 0.1},
    {"temperature": 0.0}, {"temperature": 0.3}, {"temperature": 3.0, "top_p": 0.5}, {"temperature": 1e-30},
]  # fmt: skip


@pytest.fixture
def several_blocks(monkeypatch):
    """A row of 160 tokens is read in two blocks, and in three while drawing; the last ones are not full."""
    monkeypatch.setattr(sampling, "BLOCK", 128)
    monkeypatch.setattr(sampling, "DRAW_BLOCK", 64)


def sample(logits, rows, logprobs=None, filters=True):
    """-> the kit's result and the oracle's, on equal batches and states."""
    host = sampling_batch(rows, logprobs, pad_lists=3)
    host.key = replace(host.key, sample=replace(host.key.sample, filters=filters))
    logits = np.array(logits, np.float32).reshape(len(rows), -1)
    before = logits.copy()
    mine = SimpleNamespace(last_token=torch.zeros(SLOTS, dtype=torch.int32))
    theirs = SimpleNamespace(last_token=np.zeros(SLOTS, np.int32))
    with np.errstate(all="ignore"):
        got, state = DEVICE.ops.sample(torch.from_numpy(logits), on_device(DEVICE, host), mine)
        wanted, _ = ORACLE.ops.sample(logits, host, theirs)
    assert state is mine
    np.testing.assert_array_equal(logits, before)
    assert got.tokens.dtype == torch.int32
    assert mine.last_token[1:].tolist() == theirs.last_token[1:].tolist()
    return got, wanted


def check_at_many_points(row, spread):
    rng = np.random.default_rng(3)
    rows = [SampleRow(uniform=u, **row) for u in (0.05, 0.6, 0.95)]
    got, wanted = sample(rng.standard_normal((3, 160)) * spread, rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()


@pytest.mark.parametrize("row", FILTERS, ids=str)
def test_every_filter_on_a_steep_distribution(row):
    check_at_many_points(row, 2.0)


@pytest.mark.parametrize("row", FILTERS, ids=str)
@pytest.mark.usefixtures("several_blocks")
def test_every_filter_on_a_flat_distribution(row):
    check_at_many_points(row, 0.1)


def test_each_row_has_its_own_parameters():
    rng = np.random.default_rng(4)
    rows = [SampleRow(uniform=float(rng.random()), slot=i, **row) for i, row in enumerate(FILTERS)]
    got, wanted = sample(rng.standard_normal((len(rows), 160)) * 3, rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()


@pytest.mark.parametrize("row", [FILTERS[i] for i in (0, 2, 5, 6, 10)], ids=str)
@pytest.mark.usefixtures("several_blocks")
def test_ties_go_to_the_lower_token(row):
    logits = np.repeat(np.float32([2, 0, -0.0, 1]), 40)
    rows = [SampleRow(uniform=u, **row) for u in (0.3137, 0.9713)]
    got, wanted = sample(np.tile(logits, (2, 1)), rows)
    assert got.tokens.tolist() == wanted.tokens.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_infinite_and_nan_rows(temperature):
    rest = [-1.0] * 120
    rows = [SampleRow(temperature=temperature, uniform=0.9, slot=s) for s in range(6)]
    logits = [
        [-np.inf, 0, -np.inf, *rest], [0, np.inf, 5, *rest], [-np.inf] * 123, [0, np.nan, 9, *rest], [np.nan] * 123,
        [np.inf, np.inf, np.nan, *rest],
    ]  # fmt: skip
    got, wanted = sample(logits, rows, filters=temperature > 0)
    assert got.tokens.tolist() == wanted.tokens.tolist()
    assert got.tokens.tolist()[3:] == [NO_TOKEN] * 3


@pytest.mark.usefixtures("several_blocks")
def test_a_forbidden_vocabulary_but_for_two():
    logits = np.full(300, -np.inf)
    logits[[70, 250]] = 0
    got, _ = sample(np.tile(logits, (4, 1)), [SampleRow(uniform=u) for u in (0.0, 0.4, 0.6, 0.99999994)])
    assert got.tokens.tolist() == [70, 70, 250, 250]


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
        for _ in range(8)
    ]  # fmt: skip
    got, wanted = sample(rng.standard_normal((8, 20)) * 2, rows, filters=temperature > 0)
    assert got.tokens.tolist() == wanted.tokens.tolist()


def test_padding_of_the_lists_does_not_undo_row_0_token_0():
    row = SampleRow(temperature=0, presence=5.0, edits={0: 2.0}, counts={0: (1, 1)})
    assert sample([[3, 1, 2]], [row], filters=False)[0].tokens.tolist() == [2]


def test_edits_that_make_nan_fail_the_row():
    rows = [SampleRow(temperature=0, edits={1: -np.inf}), SampleRow(temperature=0)]
    assert sample([[0, np.inf], [0, 1]], rows, filters=False)[0].tokens.tolist() == [NO_TOKEN, 1]


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.usefixtures("several_blocks")
def test_logprobs(count):
    rng = np.random.default_rng(6)
    rows = [SampleRow(temperature=0, target=t, edits={3: 9.0}) for t in (0, 1, 8)]
    logits = rng.standard_normal((3, 300)).astype(np.float32)
    logits[1, 40:] = logits[1].max() + 1  # ties at the top, over blocks
    got, wanted = sample(logits, rows, logprobs=count, filters=False)
    assert got.top_tokens.shape == (3, count)
    for name in ("rank", "top_tokens"):
        value = getattr(got, name)
        assert value.dtype == torch.int32
        assert value.tolist() == getattr(wanted, name).tolist()
    for name in ("logprob", "top_logprobs"):
        np.testing.assert_allclose(getattr(got, name).numpy(), getattr(wanted, name), atol=2e-6)


def test_no_more_logprobs_than_tokens():
    got, _ = sample([[3, 1, 2]], [SampleRow(temperature=0)], logprobs=5, filters=False)
    assert got.top_tokens.tolist() == [[0, 2, 1]]


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
