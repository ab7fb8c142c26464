"""Sampling, row by row, against the oracle: tokens must be equal, since every draw is far from where it would turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.areas.conftest import Lab
from anychip_sdk.conformance.batches import SampleRow
from anychip_sdk.conformance.inputs import linear, table
from anychip_sdk.conformance.lab import Array, Bench
from anychip_sdk.conformance.marks import check
from anychip_sdk.conformance.numerics import judge
from anychip_sdk.contract import NO_TOKEN, Batch, DType, NotSupported, Sampled
from anychip_sdk.kits.numpy.math import log_softmax
from anychip_sdk.kits.numpy.sampling import sample_rows

V = 300


class Sampler:
    """Logits [R, V] on the device, exact: token r picks row r of the identity, which picks column r of the head."""

    def __init__(self, lab: Lab, logits: Array) -> None:
        if not lab.device.capabilities.sampling:
            pytest.skip("the device does not declare sampling")
        self.logits, device = logits.astype(np.float32), lab.device
        eye = np.eye(len(logits), dtype=np.float32)
        eye[np.isnan(logits).any(axis=1)] = np.nan  # its row of logits is NaN then
        head = np.where(np.isfinite(logits), logits, 0).T
        self.bench = Bench(
            device, device.capabilities.weight_dtypes[0], {"x": table(eye), "head": linear(head, head=True)}
        )
        ops = device.ops

        def step(w: Any, kv: Any, state: Any, batch: Batch) -> tuple[Sampled, Any, Any]:
            batch = ops.attention.begin(batch)
            ids = ops.feed(batch, state) if batch.key.feed else batch.token_ids
            logits = ops.greedy_logits if batch.key.sample.greedy else ops.logits  # as models do
            sampled, state = ops.sample(logits(ops.embedding(ids, w["x"]), w["head"]), batch, state)
            return sampled, kv, state

        self._step = step

    def run(self, batch: Batch) -> Sampled:
        return self.bench.sampled(self._step, batch, batch.key.sample)

    def tokens(self, rows: Sequence[SampleRow]) -> list[int]:
        return [int(t) for t in self.run(batches.sampling(rows)).tokens[: len(rows)]]

    def wanted(self, rows: Sequence[SampleRow]) -> list[int]:
        return [int(t) for t in sample_rows(self.logits, batches.sampling(rows)).tokens]

    def compare(self, rows: Sequence[SampleRow], what: str = "") -> None:
        got, wanted = self.tokens(rows), self.wanted(rows)
        for r, (mine, right) in enumerate(zip(got, wanted, strict=True)):
            assert mine == right, f"{what}row {r} ({_shown(rows[r])}) gave token {mine}, expected {right}"


def _shown(row: SampleRow) -> str:
    default = SampleRow()
    return ", ".join(f"{k} {v}" for k, v in vars(row).items() if v != getattr(default, k)) or "defaults"


def grid(lab: Lab, rows: int, width: int = V, scale: float = 24.0) -> Array:
    """Logits in eighths: exact in every dtype, with ties among them."""
    return lab.draw.make("logits", lambda rng: np.round(np.clip(rng.standard_normal((rows, width)), -4, 4) * scale) / 8)


def settle(sampler: Sampler, rows: list[SampleRow], rng: np.random.Generator, margin: float = 1e-3) -> list[SampleRow]:
    """Draws UNIFORM again for rows whose token would turn by a change of `margin` in their parameters."""

    def turns(rows: list[SampleRow]) -> list[bool]:
        first = sampler.wanted(rows)
        moved = [[_moved(r, d) for r in rows] for d in (margin, -margin)]
        moved += [[_cut(r, d) for r in rows] for d in (margin, -margin)]
        return [len(set(ts)) > 1 for ts in zip(first, *(sampler.wanted(m) for m in moved), strict=True)]

    for _ in range(50):
        bad = turns(rows)
        if not any(bad):
            return rows
        rows = [replace(r, uniform=float(rng.random())) if b else r for r, b in zip(rows, bad, strict=True)]
    raise AssertionError("the case is not fit for use: some row has no draw that is far from a turn")


def _moved(row: SampleRow, by: float) -> SampleRow:
    return replace(row, uniform=min(max(row.uniform + by, 0.0), 0.9999999))


def _cut(row: SampleRow, by: float) -> SampleRow:
    top_p = row.top_p if row.top_p == 1 else row.top_p * (1 + by)
    return replace(row, top_p=top_p, min_p=row.min_p * (1 + by))


FILTERS: tuple[dict[str, float], ...] = (
    {}, {"temperature": 0.3}, {"temperature": 5.0}, {"top_k": 1}, {"top_k": 5}, {"top_p": 0.5}, {"top_p": 0.95},
    {"top_p": 0.01}, {"min_p": 0.1}, {"min_p": 0.9}, {"top_k": 20, "top_p": 0.8}, {"top_p": 0.9, "min_p": 0.05},
    {"top_k": 8, "top_p": 0.7, "min_p": 0.02, "temperature": 2.0}, {"top_k": V + 50},
)  # fmt: skip


@check(since="1.0", level="bronze")
def test_greedy_takes_the_first_of_the_largest(lab: Lab) -> None:
    logits = grid(lab, 6)
    for r, ties in enumerate(((7, 3), (0, 299), (150, 151), (299,), (5, 6, 7), (200, 4))):
        logits[r, list(ties)] = 20
    sampler = Sampler(lab, logits)
    rows = [SampleRow(temperature=0) for _ in range(6)]
    assert sampler.tokens(rows) == [3, 0, 150, 299, 5, 4]
    mixed = [replace(r, top_k=3, top_p=0.2, uniform=0.9) for r in rows[:5]] + [SampleRow(temperature=1.0)]
    assert sampler.tokens(mixed)[:5] == [3, 0, 150, 299, 5], "temperature 0 does not ignore the filters"


@check(since="1.0")
def test_filters(lab: Lab) -> None:
    """Every filter and some combinations, each over several draws."""
    logits = grid(lab, len(FILTERS))
    sampler, rng = Sampler(lab, logits), np.random.default_rng(3)
    for _ in range(6 if lab.thorough else 3):
        rows = [SampleRow(uniform=float(rng.random()), **kept) for kept in FILTERS]  # type: ignore[arg-type]
        sampler.compare(settle(sampler, rows, rng))


@check(since="1.0")
def test_ends_of_the_uniform_number(lab: Lab) -> None:
    """0 takes the most likely token; just below 1 takes the last one kept."""
    logits = grid(lab, 8)
    logits[:, 0] = -32  # the tail has a clear last
    sampler = Sampler(lab, logits)
    sampler.compare([SampleRow(uniform=0.0) for _ in range(8)])
    kept = [SampleRow(uniform=1 - 2**-24, top_k=k) for k in (1, 2, 3, 4, 1, 2, 3, 4)]
    sampler.compare(kept)


@check(since="1.0")
def test_top_p_keeps_the_token_that_reaches_it(lab: Lab) -> None:
    """Of two equal tokens top_p 0.6 keeps both, 0.4 one; of four, 0.6 keeps three."""
    logits = np.full((4, V), -64.0)
    logits[:2, [9, 40]] = 8.0
    logits[2:, [2, 60, 61, 250]] = 8.0
    sampler = Sampler(lab, logits)
    rows = [SampleRow(uniform=0.99, top_p=p) for p in (0.6, 0.4, 0.6, 0.9)]
    assert sampler.tokens(rows) == [40, 9, 61, 250]


@check(since="1.0")
def test_ties_are_taken_in_order_of_their_ids(lab: Lab) -> None:
    logits = np.full((4, V), -64.0)
    logits[:, [11, 30, 200, 7]] = 4.0
    sampler = Sampler(lab, logits)
    assert sampler.tokens([SampleRow(uniform=u) for u in (0.1, 0.4, 0.6, 0.9)]) == [7, 11, 30, 200]
    assert sampler.tokens([SampleRow(uniform=0.9, top_k=k) for k in (1, 2, 3, 4)]) == [7, 11, 30, 200]


@check(since="1.0")
def test_a_large_vocabulary(lab: Lab) -> None:
    """Nearly flat and peaked rows of some thousand tokens: no shortcut over the likeliest may change the result."""
    logits = grid(lab, 6, 5003, scale=8.0)
    logits[3:] *= 4
    sampler, rng = Sampler(lab, logits), np.random.default_rng(4)
    for kept in ({}, {"top_p": 0.9}, {"top_k": 700, "top_p": 0.99}, {"min_p": 0.02}):
        rows = [SampleRow(uniform=float(rng.random()), **kept) for _ in range(6)]  # type: ignore[arg-type]
        sampler.compare(settle(sampler, rows, rng, 1e-5))


@check(since="1.0")
def test_edits(lab: Lab) -> None:
    """A bias changes the order, -inf forbids, and rows without edits stay as they are."""
    logits = grid(lab, 5)
    best = [int(t) for t in logits.argmax(axis=1)]
    sampler = Sampler(lab, logits)
    rows = [
        SampleRow(temperature=0, edits={17: 100.0}),
        SampleRow(temperature=0),
        SampleRow(temperature=0, edits={best[2]: -np.inf}),
        SampleRow(temperature=0, edits={best[3]: -50.0, 0: 60.0, 299: 60.5}),
        SampleRow(uniform=0.3, edits={t: -np.inf for t in range(V) if t != 123}),
    ]
    sampler.compare(rows)


@check(since="1.0")
def test_penalties(lab: Lab) -> None:
    """Repetition divides what is positive and multiplies what is not; presence counts once, frequency each time; and
    only for the listed tokens."""
    logits = grid(lab, 7)
    logits[:, :4] = (30.0, 29.5, 29.0, 28.0)
    logits[6] -= 64
    sampler = Sampler(lab, logits)
    base = SampleRow(temperature=0)
    rows = [
        replace(base, repetition=1.25, counts={0: (0, 1)}),
        replace(base, presence=0.75, counts={0: (3, 1)}),
        replace(base, frequency=0.25, counts={0: (3, 1), 1: (1, 1)}),
        replace(base, presence=2.0, frequency=2.0, counts={0: (0, 1)}),
        replace(base, repetition=0.5, counts={3: (1, 1)}),
        replace(base, repetition=1.5, presence=1.0, frequency=0.5, counts={0: (2, 1), 1: (1, 1), 2: (0, 1)}),
        replace(base, repetition=1.1, counts={0: (1, 1)}),
    ]
    sampler.compare(rows)
    edited = [replace(base, edits={5: 31.0 - float(logits[0, 5])}, repetition=1.25, counts={5: (1, 1)})]
    sampler.compare([*edited, *rows[1:]], "an edit comes before the penalty: ")


@check(since="1.0", level="bronze")
def test_nan_fails_its_row_alone(lab: Lab) -> None:
    logits = grid(lab, 5)
    logits[1] = logits[4] = np.nan
    sampler = Sampler(lab, logits)
    for temperature in (0.0, 1.0):
        rows = [SampleRow(temperature=temperature, uniform=0.0, slot=r + 1) for r in range(5)]
        got, best = sampler.tokens(rows), np.nan_to_num(logits).argmax(axis=1)
        assert got == [best[0], NO_TOKEN, best[2], best[3], NO_TOKEN]


@check(since="1.0", claim="max_logprobs")
@pytest.mark.parametrize("count", [0, 5, None], ids=lambda c: "most" if c is None else str(c))
def test_logprobs(lab: Lab, count: int | None) -> None:
    """Of the logits as the model made them: neither temperature, nor edits, nor penalties change them."""
    most = min(lab.device.capabilities.max_logprobs, V)
    count = most if count is None else count
    if count > most:
        pytest.skip(f"max_logprobs is {most}")
    steps = np.arange(V)
    values = 2.0 ** (steps // 128) * (1 + steps % 128 / 128)  # all different, and exact in bfloat16
    logits = lab.draw.make("logits", lambda rng: np.stack([rng.permutation(values) for _ in range(4)]))
    for r in range(4):
        logits[r, r * 7 : r * 7 + 6] = np.arange(6) * 0.5 + 16  # a clear order at the top
    sampler = Sampler(lab, logits)
    rows = [
        SampleRow(temperature=0),
        SampleRow(temperature=0, target=100),
        SampleRow(temperature=3.0, uniform=0.0, edits={3: 5.0}),
        SampleRow(temperature=0, repetition=2.0, counts={26: (1, 1)}, target=27),
    ]
    batch = batches.sampling(rows, count)
    got, wanted = sampler.run(batch), sample_rows(sampler.logits, batch)
    assert got.logprob is not None and got.rank is not None, "logprobs were asked for and did not come"  # noqa: PT018
    assert got.rank[:4].tolist() == wanted.rank.tolist()  # type: ignore[union-attr]
    _judge_logprobs(lab, got.logprob[:4], wanted.logprob, sampler.logits)
    if count:
        assert got.top_tokens is not None
        assert got.top_tokens[:4].tolist() == wanted.top_tokens.tolist()  # type: ignore[union-attr]
        _judge_logprobs(lab, got.top_logprobs[:4], wanted.top_logprobs, sampler.logits)  # type: ignore[index]


def _judge_logprobs(lab: Lab, got: Array, wanted: Any, logits: Array) -> None:
    """The reference is a log-softmax in float32: its largest error is the allowance of each."""
    exact = log_softmax(logits.astype(np.float64))
    e_ref = np.abs(log_softmax(logits) - exact).max()
    lab.verdict(judge(np.asarray(got), np.asarray(wanted), np.asarray(wanted) + e_ref, "float32"), "logprobs")


@check(since="1.0", claim="device_feedback")
def test_the_sampled_token_is_kept_for_the_next_step(lab: Lab) -> None:
    """`state.last_token`: in the row's slot, 0 after NaN, and untouched where a row has no slot."""
    logits = np.full((6, V), -8.0)
    logits[np.arange(6), [3, 1, 2, 5, 4, 0]] = 8.0
    logits[4] = np.nan
    sampler = Sampler(lab, logits)
    sampler.tokens([SampleRow(temperature=0, slot=s) for s in (9, 2, 0, 7, 5, 11)])
    batch = batches.sampling([SampleRow(temperature=0) for _ in range(6)])
    batch.key = replace(batch.key, feed=True)
    batch.feed[:] = (1, 1, 0, 1, 1, 1)
    batch.token_slot[:] = (9, 2, 3, 7, 5, 11)
    batch.token_ids[:] = (1, 3, 3, 1, 3, 3)
    if not lab.device.capabilities.device_feedback:
        with pytest.raises(NotSupported):
            sampler.run(batch)
        return
    got = [int(t) for t in sampler.run(batch).tokens[:6]]
    # Tokens 3, 1, (3 as given), 5, 0, 0 were fed: rows of these numbers answer.
    assert got == [5, 1, 5, 0, 3, 3], f"fed tokens gave {got}"


@check(since="1.0")
def test_rows_do_not_depend_on_each_other(lab: Lab) -> None:
    """Each row has its own parameters and its own random number, whatever stands beside it."""
    logits = grid(lab, len(FILTERS))
    sampler, rng = Sampler(lab, logits), np.random.default_rng(5)
    rows = [SampleRow(uniform=float(rng.random()), **kept) for kept in FILTERS]  # type: ignore[arg-type]
    together = sampler.tokens(rows)
    order = rng.permutation(len(rows))
    batch = batches.sampling([rows[i] for i in order])
    batch.token_ids[:] = order
    shuffled = sampler.run(batch).tokens
    assert [int(shuffled[list(order).index(i)]) for i in range(len(rows))] == together
    for i in (0, 5, 12):
        batch = batches.sampling([rows[i]])
        batch.token_ids[:] = i
        assert int(sampler.run(batch).tokens[0]) == together[i], f"row {i} alone gives another token"


@check(since="1.0", level="bronze")
def test_undeclared_sampling_is_refused(lab: Lab, dtype: DType) -> None:
    """A device that does not declare sampling refuses it."""
    if lab.device.capabilities.sampling:
        pytest.skip("the device declares sampling")
    bench = Bench(lab.device, dtype, {"x": table(np.eye(2, 8, dtype=np.float32))})

    def step(w: Any, kv: Any, state: Any, batch: Batch) -> tuple[Sampled, Any, Any]:
        ops = lab.device.ops
        sampled, state = ops.sample(ops.embedding(batch.token_ids, w["x"]), batch, state)
        return sampled, kv, state

    batch = batches.sampling([SampleRow(temperature=0)] * 2)
    with pytest.raises(NotSupported):
        bench.sampled(step, batch, batch.key.sample)
