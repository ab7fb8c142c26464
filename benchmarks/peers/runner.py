"""What every engine's runner does alike: load, warm up, time each workload, write down what was found.

    python -m peers.run_ENGINE MODEL FORMAT --work WORK.json --out RUN.json --started SECONDS

Runs in the environment of the engine, so it imports the standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

Work = list[tuple[list[int], int]]
"""(prompt, tokens to generate) per request."""

WARM_UP: Work = [([5, 7, 11, 13] * 4, 4)]
"""Done once after loading and before anything is timed."""

HEAD = 8
"""Tokens of the first request that are written down, to see that engines do the same work."""


class Engine(Protocol):
    """A loaded model."""

    def generate(self, work: Work) -> list[list[int]]:
        """The tokens of each request, chosen greedily; an end-of-text token ends nothing."""

    def forget(self) -> None:
        """Empties the prefix cache."""


def shared(prompts: list[list[int]]) -> int:
    """Tokens that several prompts all start with; none where there is but one."""
    if len(prompts) < 2:
        return 0
    for place, tokens in enumerate(zip(*prompts, strict=False)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, prompts))


def threads() -> int:
    """The cores this process may use: every engine gets them all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main(
    modules: tuple[str, ...],
    load: Callable[[str, str], Engine],
    more: Callable[[Engine, Mapping[str, Work]], dict[str, Any]] | None = None,
) -> None:
    """modules: what the engine imports, timed apart from its loading. load: (model, format) -> engine. more: what else
    is found after the workloads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("format")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--started", type=float, required=True, help="time.time() when the process was started")
    options = parser.parse_args()
    for name in modules:
        import_module(name)
    start = time.perf_counter()
    engine = load(options.model, options.format)
    found: dict[str, Any] = {
        "load_s": round(time.perf_counter() - start, 3),
        "ready_s": round(time.time() - options.started, 3),
        "workloads": {},
    }
    engine.generate(WARM_UP)
    asked = json.loads(options.work.read_text())
    for name, work in asked.items():
        found["workloads"][name] = timed(engine, work)
    if more is not None:
        found |= more(engine, asked)
    options.out.write_text(json.dumps(found))


def timed(engine: Engine, work: Work) -> dict[str, Any]:
    """One run from an empty prefix cache. Raises RuntimeError where the engine did not do the whole work."""
    engine.forget()
    start = time.perf_counter()
    made = engine.generate(work)
    seconds = time.perf_counter() - start
    asked, got = [count for _, count in work], [len(tokens) for tokens in made]
    if got != asked:
        raise RuntimeError(f"tokens made per request are {got}; expected {asked}")
    return {"seconds": round(seconds, 4), "tokens": sum(asked), "head": made[0][:HEAD]}
