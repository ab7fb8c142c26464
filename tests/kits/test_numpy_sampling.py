"""Sampling of the numpy kit: cases worked by hand, and how often each token comes in an even sweep of UNIFORM."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from anychip_sdk.contract import NO_TOKEN
from anychip_sdk.kits.numpy import NumpyOps
from numpy_batches import SampleRow, sampling_batch

OPS = NumpyOps()
P = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2]))  # falling: 1, 3, 4, 0, 2
SWEEP = (np.arange(1000) + 0.5) / 1000


def sample(logits, rows, logprobs=None, slots=4, pad_lists=0):
    state = SimpleNamespace(last_token=np.zeros(slots, np.int32))
    logits = np.array(logits, np.float32).reshape(len(rows), -1)
    with np.errstate(invalid="ignore"):
        sampled, same = OPS.sample(logits, sampling_batch(rows, logprobs, pad_lists), state)
    assert same is state
    assert sampled.tokens.dtype == np.int32
    return sampled, state


def pick(logits, **row) -> int:
    return int(sample([logits], [SampleRow(**row)])[0].tokens[0])


def shares(logits, **row) -> list[float]:
    """How often each token comes over the sweep."""
    rows = [SampleRow(uniform=u, **row) for u in SWEEP]
    tokens = sample(np.tile(logits, (len(rows), 1)), rows)[0].tokens
    return (np.bincount(tokens, minlength=len(logits)) / len(rows)).tolist()


def test_greedy_takes_the_first_of_the_largest_and_ignores_filters():
    assert pick([1, 3, 3, 2], temperature=0) == 1
    assert pick([1, 3, 3, 2], temperature=0, uniform=0.99, top_k=1, top_p=0.01, min_p=1) == 1


@pytest.mark.parametrize(
    ("uniform", "token"),
    [(0, 1), (0.39, 1), (0.41, 3), (0.64, 3), (0.66, 4), (0.84, 4), (0.86, 0), (0.94, 0), (0.96, 2), (0.99999994, 2)],
)
def test_uniform_walks_down_from_the_most_likely(uniform, token):
    assert pick(P, uniform=uniform) == token


def test_ties_go_to_the_lower_token_first():
    assert [pick([0, 1, 0, 1], uniform=u, top_k=2) for u in (0, 0.49, 0.51)] == [1, 1, 3]


def test_frequencies_follow_the_softmax():
    assert shares(P) == pytest.approx([0.1, 0.4, 0.05, 0.25, 0.2], abs=1e-3)


def test_temperature_divides_the_logits():
    wanted = np.exp(P / 2) / np.exp(P / 2).sum()
    assert shares(P, temperature=2) == pytest.approx(wanted.tolist(), abs=1e-3)
    assert shares(P, temperature=1e-30) == [0, 1, 0, 0, 0]
    assert shares(P * 1e30, temperature=1e30) == pytest.approx(shares(P), abs=2e-3)


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 1e-6}, [1]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.5}, [1, 3]),
        ({"top_p": 0.66}, [1, 3, 4]),
        ({"min_p": 0.49}, [1, 3, 4]),  # 0.49 * 0.4 = 0.196
        ({"min_p": 0.51}, [1, 3]),
        ({"min_p": 1.0}, [1]),
        ({"top_k": 2, "top_p": 0.6}, [1]),  # 0.4 / 0.65 = 0.615 reaches it alone
        ({"top_k": 2, "top_p": 0.63}, [1, 3]),
        ({"top_k": 4, "top_p": 0.8, "min_p": 0.6}, [1, 3]),
        ({"top_k": 1, "top_p": 1e-6, "min_p": 1.0}, [1]),
    ],
    ids=str,
)
def test_filters_keep_the_right_tokens_in_the_right_shares(row, kept):
    p = np.where(np.isin(np.arange(5), kept), np.exp(P), 0)
    assert shares(P, **row) == pytest.approx((p / p.sum()).tolist(), abs=1e-3)


def test_top_k_breaks_ties_by_token_and_min_p_keeps_ties():
    assert shares([1, 1, 1, 0], top_k=2) == [0.5, 0.5, 0, 0]
    assert shares([1, 1, 0], min_p=1.0) == [0.5, 0.5, 0]


def test_a_token_of_minus_infinity_is_never_taken():
    logits = [-np.inf, 0, -np.inf, 0]
    assert shares(logits) == [0, 0.5, 0, 0.5]
    assert pick(logits, uniform=0.99999994) == 3
    assert shares(logits, top_k=1) == [0, 1, 0, 0]
    assert shares(logits, top_p=0.4, min_p=0.5) == [0, 1, 0, 0]


@pytest.mark.parametrize("temperature", [0, 1])
def test_infinite_rows_still_have_a_largest(temperature):
    assert pick([-np.inf] * 3, temperature=temperature, uniform=0.9) == 0
    assert pick([0, np.inf, 5], temperature=temperature, uniform=0.9) == 1


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_row_with_nan_fails_alone(temperature):
    rows = [SampleRow(temperature=temperature, slot=s, top_k=2, top_p=0.9) for s in (1, 2, 3)]
    sampled, state = sample([[0, 5, 0], [0, np.nan, 9], [np.nan] * 3], rows)
    assert sampled.tokens.tolist() == [1, NO_TOKEN, NO_TOKEN]
    assert state.last_token[1] == 1


def test_edits_that_make_nan_fail_the_row():
    assert pick([0, np.inf], temperature=0, edits={1: -np.inf}) == NO_TOKEN


def test_edits_are_added_before_the_choice():
    rows = [SampleRow(temperature=0, edits={0: 2.5}), SampleRow(temperature=0, edits={2: -np.inf, 1: 0.5})]
    assert sample([[0, 1, 2], [0, 1, 2]], rows, pad_lists=3)[0].tokens.tolist() == [0, 1]
    assert shares([0, 0, 0], edits={1: -np.inf}) == [0.5, 0, 0.5]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        # logits [3, -1, 2]; counts: token -> (times generated, seen)
        ({"repetition": 2.0, "counts": {0: (0, 1), 1: (2, 1)}}, [1.5, -2, 2]),
        ({"presence": 0.5, "counts": {0: (0, 1), 1: (1, 1), 2: (4, 1)}}, [3, -1.5, 1.5]),
        ({"frequency": 0.5, "counts": {0: (0, 1), 1: (1, 1), 2: (4, 1)}}, [3, -1.5, 0]),
        ({"repetition": 2.0, "presence": 1.0, "frequency": 0.25, "counts": {0: (2, 1)}}, [1.5 - 1 - 0.5, -1, 2]),
        ({"repetition": 2.0, "presence": 1.0, "counts": {0: (0, 0)}}, [3, -1, 2]),
        ({"repetition": 2.0, "edits": {1: 5.0}, "counts": {1: (0, 1)}}, [3, 2, 2]),  # edits come first: (-1 + 5) / 2
        ({"presence": -2.0, "counts": {1: (3, 1)}}, [3, 1, 2]),
    ],
    ids=str,
)
def test_penalties(row, wanted):
    shifted = np.exp(np.array(wanted) - max(wanted))
    assert shares([3, -1, 2], **row) == pytest.approx((shifted / shifted.sum()).tolist(), abs=1.5e-3)


def test_a_forbidden_token_stays_forbidden_under_penalties():
    row = {"repetition": 2.0, "presence": -9.0, "frequency": -9.0, "counts": {0: (5, 1)}, "edits": {0: -np.inf}}
    assert shares([9, 0, 0], **row) == [0, 0.5, 0.5]


def test_padding_of_the_lists_changes_nothing():
    rows = [SampleRow(uniform=0.7, repetition=3.0, presence=5.0, frequency=5.0, counts={1: (1, 1)})]
    assert sample([P], rows, pad_lists=0)[0].tokens == sample([P], rows, pad_lists=5)[0].tokens


def test_tokens_go_to_their_slots():
    rows = [SampleRow(temperature=0, slot=s) for s in (3, 1)]
    assert sample([[0, 1, 0], [0, 0, 1]], rows)[1].last_token.tolist() == [0, 2, 0, 1]


def test_logprobs_are_of_the_logits_before_any_change():
    row = SampleRow(temperature=0, edits={1: -np.inf}, repetition=2.0, counts={3: (0, 1)})
    sampled, _ = sample([P], [row], logprobs=3)
    assert sampled.tokens.tolist() == [4]
    np.testing.assert_allclose(sampled.logprob, [np.log(0.2)], rtol=1e-6)
    assert sampled.rank.tolist() == [3]
    assert sampled.top_tokens.tolist() == [[1, 3, 4]]
    np.testing.assert_allclose(sampled.top_logprobs, np.log([[0.4, 0.25, 0.2]]), rtol=1e-6)
    dtypes = {n: getattr(sampled, n).dtype.name for n in ("logprob", "rank", "top_tokens", "top_logprobs")}
    assert dtypes == {"logprob": "float32", "rank": "int32", "top_tokens": "int32", "top_logprobs": "float32"}


def test_logprobs_of_a_target_with_ties_and_without_alternatives():
    rows = [SampleRow(temperature=0, target=t + 1) for t in (0, 1, 2)]
    sampled, _ = sample([[1, 2, 1]] * 3, rows, logprobs=0)
    assert sampled.tokens.tolist() == [1, 1, 1]
    assert sampled.rank.tolist() == [2, 1, 2]
    assert sampled.top_tokens.shape == sampled.top_logprobs.shape == (3, 0)
    assert sample([[1, 2]], [SampleRow()])[0].logprob is None


@pytest.mark.parametrize("logprobs", [None, 2])
def test_no_rows(logprobs):
    state = SimpleNamespace(last_token=np.zeros(1, np.int32))
    sampled, _ = OPS.sample(np.zeros((0, 7), np.float32), sampling_batch([], logprobs), state)
    assert sampled.tokens.shape == (0,)
    assert logprobs is None or sampled.top_tokens.shape == (0, 2)
