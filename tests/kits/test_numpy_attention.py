"""Paged attention of the numpy kit against a dense reference that knows no pages."""

from __future__ import annotations

import numpy as np
import pytest
from anychip_sdk.contract import AttentionSpec, Layer
from anychip_sdk.kits.numpy import NumpyAttention, NumpyOps, Weight
from numpy_batches import page_tables, ragged

ATTENTION = NumpyAttention()
MIX = [(7, 1), (0, 1), (3, 1), (0, 5), (4, 6), (8, 8)]  # (computed, new): decodes first, then prefills


def dense(q: np.ndarray, k: np.ndarray, v: np.ndarray, spec: AttentionSpec, sinks: object = -np.inf) -> np.ndarray:
    """q: [n, H, D], the last n of the sequence; k, v: [N, K, D]; sinks: [H]. -> [n, H, Dv]"""
    n, N, H = len(q), len(k), q.shape[1]
    k, v = (np.repeat(a, H // a.shape[1], axis=1) for a in (k, v))  # [N, H, D]
    scores = np.einsum("nhd,mhd->hnm", q, k) * spec.scale
    if spec.softcap is not None:
        scores = np.tanh(scores / spec.softcap) * spec.softcap
    i, j = np.arange(N - n, N)[:, None], np.arange(N)[None, :]
    seen = (j <= i) & (j > i - (spec.window or N))
    e = np.where(seen, np.exp(scores), 0)
    total = e.sum(-1, keepdims=True) + np.exp(np.broadcast_to(sinks, H))[:, None, None]
    return np.einsum("hnm,mhd->nhd", e / total, v)


class Case:
    """Sequences with random q, k, v, and a cache of two layers that is NaN wherever nothing was written."""

    def __init__(self, steps, spec, *, H=4, K=2, Dv=None, page_size=4, dtype="float64", permute=False, seed=0):
        rng = np.random.default_rng(seed)
        self.steps, self.spec, self.page_size, self.dtype = steps, spec, page_size, dtype
        D, Dv = spec.head_dim, Dv or spec.head_dim
        self.lengths = [computed + new for computed, new in steps]
        self.q = [rng.standard_normal((n, H, D)).astype(dtype) for _, n in steps]
        self.k = [rng.standard_normal((n, K, D)).astype(dtype) for n in self.lengths]
        self.v = [rng.standard_normal((n, K, Dv)).astype(dtype) for n in self.lengths]
        in_use = sum(-(-n // page_size) for n in self.lengths)
        self.tables = page_tables(self.lengths, page_size, 1 + rng.permutation(in_use) if permute else None)
        shape = (2, in_use + 2, page_size, K)
        self.kv = [(np.full((*shape, D), np.nan, dtype), np.full((*shape, Dv), np.nan, dtype))]
        for cache in self.kv[0]:
            cache[:, 0] = 0
        self.layer = Layer(spec, 1)

    def run(self, pad_tokens=0, pad_seqs=0):
        before = ragged([(0, computed) for computed, _ in self.steps], self.tables, self.page_size)
        self._write(before, [slice(0, c) for c, _ in self.steps], 0)
        batch = ragged(self.steps, self.tables, self.page_size, pad_tokens, pad_seqs)
        self._write(batch, [slice(c, c + n) for c, n in self.steps], pad_tokens)
        q = np.concatenate([*self.q, np.ones((pad_tokens, *self.q[0].shape[1:]), self.dtype)])
        return ATTENTION.attend(q, self.kv, batch, self.layer)

    def _write(self, batch, parts, pad):
        k, v = (
            np.concatenate([*(a[p] for a, p in zip(source, parts, strict=True)), np.ones((pad, *source[0].shape[1:]))])
            for source in (self.k, self.v)
        )
        assert ATTENTION.write(k, v, self.kv, batch, self.layer) is self.kv

    def wanted(self):
        each = zip(self.q, self.k, self.v, strict=True)
        return np.concatenate([dense(q, k, v, self.spec).reshape(len(q), -1) for q, k, v in each])

    def check(self, tolerance=1e-12, **padding):
        got = self.run(**padding)
        assert got.dtype == self.dtype
        np.testing.assert_allclose(got[: len(self.wanted())], self.wanted(), rtol=tolerance, atol=tolerance)
        return got


SPECS = {
    "plain": AttentionSpec(head_dim=8, scale=0.3),
    "window 1": AttentionSpec(head_dim=8, scale=0.3, window=1),
    "window 4": AttentionSpec(head_dim=8, scale=0.3, window=4),
    "window 5": AttentionSpec(head_dim=8, scale=0.3, window=5),
    "wide window": AttentionSpec(head_dim=8, scale=0.3, window=1000),
    "softcap": AttentionSpec(head_dim=8, scale=2.0, softcap=1.5),
    "softcap and window": AttentionSpec(head_dim=8, scale=2.0, softcap=1.5, window=6),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("heads", [(4, 2), (4, 1), (3, 3), (8, 2)], ids=str)
def test_a_ragged_mix_equals_the_dense_reference(spec, heads):
    Case(MIX, spec, H=heads[0], K=heads[1]).check()


@pytest.mark.parametrize("page_size", [1, 2, 16, 256])
def test_page_sizes(page_size):
    Case(MIX, SPECS["window 5"], page_size=page_size).check()


@pytest.mark.parametrize("length", [3, 4, 5, 7, 8, 9])
def test_lengths_around_the_edge_of_a_page(length):
    Case([(length - 1, 1), (0, length), (length // 2, length - length // 2)], SPECS["plain"]).check()


def test_float32_and_values_of_another_width():
    Case(MIX, SPECS["plain"], dtype="float32").check(tolerance=1e-5)
    Case(MIX, SPECS["plain"], Dv=6).check()


def test_padding_is_zero_and_changes_nothing():
    plain, padded = Case(MIX, SPECS["plain"]), Case(MIX, SPECS["plain"])
    got = padded.check(pad_tokens=3, pad_seqs=2)
    assert not got[-3:].any()
    assert np.array_equal(got[:-3], plain.run())


def test_where_pages_lie_makes_no_difference():
    assert np.array_equal(Case(MIX, SPECS["window 4"], permute=True).run(), Case(MIX, SPECS["window 4"]).run())


def test_pages_behind_the_window_may_be_given_up():
    case = Case([(10, 1), (9, 3)], SPECS["window 4"])
    wanted = case.check()
    for table, first in zip(case.tables, (7, 6), strict=True):  # the first position each sequence still sees
        for column in range(first // case.page_size):
            for cache in case.kv[0]:
                cache[:, table[column]] = np.nan
            table[column] = 0
    batch = ragged(case.steps, case.tables, case.page_size)
    assert np.array_equal(ATTENTION.attend(np.concatenate(case.q), case.kv, batch, case.layer), wanted)


def test_only_the_layer_of_the_call_is_written():
    case = Case(MIX, SPECS["plain"])
    case.run()
    for cache in case.kv[0]:
        assert np.isnan(cache[0, 1:]).all()
        assert not cache[0, 0].any()
        assert np.isnan(cache[1, -1]).all()  # the spare page


@pytest.mark.parametrize("norms", [False, True])
def test_run_splits_heads_norms_turns_and_writes(norms):
    T, H, K, D, Dv = 5, 4, 2, 8, 6
    rng = np.random.default_rng(1)
    spec, ops = AttentionSpec(head_dim=D, scale=0.5, eps=1e-2), NumpyOps()
    q, k, v = (rng.standard_normal((T, n)) for n in (H * D, K * D, K * Dv))
    q_norm, k_norm = (Weight("norm", (rng.standard_normal(D),)) if norms else None for _ in range(2))
    batch = ragged([(0, T)], [[2, 1]], 4)
    angles = ops.rope_angles(batch.positions, Weight("rope", (np.array([1, 0.5, 0.2, 0.1]),)))
    kv = [(np.zeros((1, 3, 4, K, D)), np.zeros((1, 3, 4, K, Dv)))]
    got, same = ATTENTION.run(
        q, k, v, kv, batch, Layer(spec, 0), angles=angles, q_norm=q_norm, k_norm=k_norm
    )  # fmt: skip
    assert same is kv
    q, k = q.reshape(T, H, D), k.reshape(T, K, D)
    if norms:
        q, k = ops.rms_norm(q, q_norm, 1e-2), ops.rms_norm(k, k_norm, 1e-2)
    q, k = ops.rope(q, angles), ops.rope(k, angles)
    assert np.array_equal(kv[0][0][0, [2, 2, 2, 2, 1], [0, 1, 2, 3, 0]], k)
    np.testing.assert_allclose(got, dense(q, k, v.reshape(T, K, Dv), spec).reshape(T, -1), rtol=1e-12)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_sinks_join_the_denominator(spec):
    case, sinks = Case(MIX, spec), np.array([-3.0, 0.0, 1.5, 40.0])
    case.run()
    batch = ragged(case.steps, case.tables, case.page_size)
    got = ATTENTION.attend_with_sinks(np.concatenate(case.q), case.kv, batch, case.layer, Weight("vector", (sinks,)))
    each = zip(case.q, case.k, case.v, strict=True)
    wanted = np.concatenate([dense(q, k, v, spec, sinks).reshape(len(q), -1) for q, k, v in each])
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_no_tokens_at_all():
    kv = [(np.zeros((1, 2, 4, 2, 8)), np.zeros((1, 2, 4, 2, 6)))]
    q, k, v = np.zeros((0, 32)), np.zeros((0, 16)), np.zeros((0, 12))
    got, _ = ATTENTION.run(q, k, v, kv, ragged([], [], 4), Layer(SPECS["plain"], 0))
    assert got.shape == (0, 24)
    got = ATTENTION.attend(
        np.ones((3, 4, 8)), kv, ragged([], [], 4, pad_tokens=3, pad_seqs=2), Layer(SPECS["plain"], 0)
    )
    assert np.array_equal(got, np.zeros((3, 24)))
