"""The steps that will come, run once on scratch before the first request: a device that compiles or records steps does
so then, and no request waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from anychip_sdk.contract import Bucket, SampleKind, StepKey, view, words

from anychip.runner.executor import Executor

KINDS = (
    SampleKind(),
    SampleKind(filters=True),
    SampleKind(filters=True, penalties=1, edits=1, logprobs=1),
)
"""Greedy, random, and everything at once. The last is left out where the device has a program for every mixture."""


@dataclass(frozen=True)
class Limits:
    """The largest of each that a step can have."""

    tokens: int
    seqs: int
    pages: int
    groups: int


def expected_keys(executor: Executor, limits: Limits) -> list[StepKey]:
    """Every key of a step within the limits that the device pads, the largest first: what does not fit into its memory
    is known soonest. Empty for a device that runs exact shapes. Not among them are prompt logprobs, whose rows may be
    any number, and lists longer than the device expects: those are compiled when they come."""
    kinds = [executor.sample_kind(kind) for kind in KINDS]
    if kinds[-1] == KINDS[-1]:
        kinds.pop()
    buckets = dict.fromkeys([*_decodes(executor, limits), *_mixed(executor, limits)])
    largest = sorted(buckets, key=lambda b: (b.tokens, b.seqs, b.pages), reverse=True)
    return [StepKey(b, kind, executor.asynchronous) for b in largest for kind in dict.fromkeys(kinds)]


def _decodes(executor: Executor, limits: Limits) -> Iterator[Bucket]:
    """Of steps in which every sequence has one token."""
    seqs = 1
    while seqs <= limits.seqs:
        exact = Bucket(seqs, seqs, 1, seqs, decode=True, groups=limits.groups)
        found = list(_widths(executor, exact, limits))
        if not found:
            return
        yield from found
        seqs = found[0].seqs + 1


def _mixed(executor: Executor, limits: Limits) -> Iterator[Bucket]:
    """Of steps in which prompts are among the sequences, or nothing else is."""
    tokens = 1
    while tokens <= limits.tokens:
        exact = Bucket(tokens, 1, 1, 1, decode=False, groups=limits.groups)
        bucket = executor.bucket(exact)
        if bucket is exact:
            return  # runs as it is
        most, seqs = min(bucket.tokens, limits.tokens), 1
        while seqs <= min(limits.seqs, most):
            found = list(_widths(executor, replace(exact, tokens=most, seqs=seqs, rows=seqs), limits))
            yield from found
            seqs = found[0].seqs + 1
        tokens = bucket.tokens + 1


def _widths(executor: Executor, exact: Bucket, limits: Limits) -> Iterator[Bucket]:
    """The buckets of one step, however long its contexts are."""
    pages = 1
    while pages <= limits.pages:
        asked = replace(exact, pages=pages)
        bucket = executor.bucket(asked)
        if bucket is asked:
            return  # runs as it is
        yield bucket
        pages = bucket.pages + 1


def warm_up(executor: Executor, keys: list[StepKey]) -> Iterator[StepKey]:
    """Runs each key once over zeros, which is scratch, and gives it back when it is done. Raises DeviceError or
    OutOfMemory."""
    executor.warm(keys)
    for key in keys:
        shapes = executor.plan_shapes(key.bucket)
        buffer = executor.lend(words(key, shapes))
        static = executor.plan(view(buffer, key, shapes))
        executor.launch(key if static is None else replace(key, static=static), buffer, exact=False).get()
        yield key
