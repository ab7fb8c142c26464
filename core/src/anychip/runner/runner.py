"""One step, from plan to tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from anychip_sdk.contract import Bucket, Pending, Sampled, SampleKind, StepKey, view, words

from anychip.kvcache.cache import KVCache, PageCopy
from anychip.runner.executor import Executor
from anychip.runner.inputs import Rows, choose_rows, exact_bucket, fill
from anychip.scheduler.plan import StepPlan
from anychip.scheduler.table import RequestTable


@dataclass(frozen=True)
class InFlight:
    """A launched step."""

    plan: StepPlan
    rows: Rows
    pending: Pending


@dataclass(frozen=True)
class StepResult:
    """tokens: [B] int32 per sequence of the plan, 0 where none was sampled. `row_of`: sequence -> its logit row."""

    plan: StepPlan
    tokens: np.ndarray
    rows: Rows
    sampled: Sampled


class Runner:
    """Lays plans out, launches them and collects what comes back."""

    def __init__(self, executor: Executor, table: RequestTable, kv: KVCache) -> None:
        self._executor = executor
        self._table = table
        self._kv = kv

    def launch(self, plan: StepPlan) -> InFlight:
        """Raises DeviceError or OutOfMemory."""
        e = self._executor
        self._copy(plan.copies)
        rows = choose_rows(plan, self._table)
        exact = exact_bucket(plan, rows, self._kv)
        bucket = e.bucket(exact)
        key = _key(bucket, e.sample_kind(rows.kind), e.asynchronous)
        shapes = e.plan_shapes(bucket)
        buffer = e.lend(words(key, shapes))
        batch = view(buffer, key, shapes)
        fill(batch, plan, rows, self._table, self._kv)
        static = e.plan(batch)
        if static is not None:
            key = replace(key, static=static)
        return InFlight(plan, rows, e.launch(key, buffer, bucket is exact))

    def collect(self, step: InFlight) -> StepResult:
        """Waits for a launched step. Raises DeviceError or OutOfMemory."""
        sampled = step.pending.get()
        tokens = np.zeros(len(step.plan.requests), np.int32)
        tokens[step.rows.sampling] = sampled.tokens[: len(step.rows.sampling)]
        return StepResult(step.plan, tokens, step.rows, sampled)

    def _copy(self, copies: list[PageCopy]) -> None:
        """One call a group; one call a copy, in order, where a page given up in this step is a target again."""
        for group in sorted({c.group for c in copies}):
            pairs = np.array([(c.source, c.target) for c in copies if c.group == group], np.int32)
            chained = np.intersect1d(pairs[:, 0], pairs[:, 1]).size or len(set(pairs[:, 1].tolist())) < len(pairs)
            for part in np.split(pairs, len(pairs)) if chained else [pairs]:
                self._executor.copy_pages(group, part[:, 0], part[:, 1])


@lru_cache(maxsize=4096)
def _key(bucket: Bucket, kind: SampleKind, feed: bool) -> StepKey:
    """The same one again for the same shapes: whoever looks it up need not compare it."""
    return StepKey(bucket, kind, feed)
