"""The engine's own work per decode step: scheduler, KV cache and batch layout, with a device that does nothing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from anychip_sdk.contract import (
    Batch,
    Bucket,
    KVLayout,
    KVSpec,
    Paged,
    Pending,
    Sampled,
    SampleKind,
    Shapes,
    StepKey,
)

from anychip.engine.core import EngineCore
from anychip.engine.options import EngineOptions
from anychip.sampling_params import SamplingParams

COUNTS = (1, 64, 256, 1024)
PROMPT, STEPS, PAGE = 64, 200, 16


class NullPending:
    """Token 1 for every row."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def get(self) -> Sampled:
        return Sampled(np.ones(self._rows, np.int32))


class NullExecutor:
    """Takes every step and does nothing."""

    asynchronous = False

    def bucket(self, exact: Bucket) -> Bucket:
        return exact

    def sample_kind(self, exact: SampleKind) -> SampleKind:
        return exact

    def warm(self, keys: Sequence[StepKey]) -> None:
        return None

    def plan_shapes(self, bucket: Bucket) -> Shapes:
        return ()

    def plan(self, host: Batch) -> Hashable:
        return None

    def lend(self, words: int) -> np.ndarray:
        return np.zeros(words, np.int32)

    def launch(self, key: StepKey, buffer: np.ndarray, exact: bool) -> Pending:
        return NullPending(key.bucket.rows)

    def copy_pages(self, group: int, source: np.ndarray, target: np.ndarray) -> None:
        return None

    def close(self) -> None:
        return None


@dataclass(frozen=True)
class HostResult:
    """Milliseconds per decode step: median and 99th percentile."""

    requests: int
    p50_ms: float
    p99_ms: float


def run(count: int, steps: int = STEPS) -> HostResult:
    """`count` requests that all decode, with the page crossings that come with `steps` steps."""
    length = PROMPT + steps + 8
    pages = count * -(-length // PAGE) + 1
    spec = KVSpec((Paged(layers=1, kv_heads=1, k_dim=1, v_dim=1),), "float32")
    options, step_tokens = EngineOptions(max_num_seqs=count), max(2048, count)
    core = EngineCore(
        NullExecutor(),
        KVLayout(spec, PAGE, (pages,), count + 1),
        options,
        step_tokens=step_tokens,
        max_model_len=length,
        vocab_size=1000,
        eos_ids=frozenset(),
    )
    rng = np.random.default_rng(0)
    for i in range(count):
        params = SamplingParams(temperature=0, max_tokens=steps + 8, ignore_eos=True, detokenize=False)
        core.add(core.make(str(i), rng.integers(0, 1000, PROMPT).tolist(), params))
    while any(r.num_tokens == PROMPT for r in core.scheduler.running) or core.scheduler.waiting:
        core.step()
    times = []
    for _ in range(steps - (PROMPT * count) // step_tokens - 1):
        start = perf_counter()
        core.step()
        times.append((perf_counter() - start) * 1000)
    core.close()
    return HostResult(count, float(np.percentile(times, 50)), float(np.percentile(times, 99)))
