"""Speed of a model on a device."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

from anychip.bench import workloads
from anychip.engine.llm import LLM
from anychip.progress import Progress
from anychip.sampling_params import SamplingParams


@dataclass(frozen=True)
class Result:
    """Times in seconds but for the *_ms fields; the best of `repeats` runs. ttft: from the start of the run to a
    request's first token, queueing included. itl: between two tokens of a request."""

    workload: str
    device: str
    dtype: str
    quantize: str | None
    requests: int
    output_tokens: int
    seconds: float
    tokens_per_second: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    load_seconds: float
    prefix_hit_rate: float
    preemptions: int


def run(model: str, names: list[str], *, repeats: int, progress: bool, **options: Any) -> list[Result]:
    """Loads the model once and runs each workload `repeats` times from an empty prefix cache."""
    start = perf_counter()
    with LLM(model, skip_tokenizer=True, progress=progress, **options) as llm:
        load = perf_counter() - start
        vocabulary = min(workloads.VOCABULARY, llm.vocab_size)
        results = []
        for name in names:
            work = workloads.make(name, vocabulary)
            with Progress(f"bench {name}", repeats * len(work), unit="requests", shown=progress) as bar:
                made = [_once(llm, name, work, load, bar) for _ in range(repeats)]
            results.append(min(made, key=lambda result: result.seconds))
    return results


def _once(llm: LLM, name: str, work: workloads.Workload, load: float, bar: Progress) -> Result:
    llm.reset_prefix_cache()
    before = llm.stats()
    prompts = [prompt for prompt, _ in work]
    params = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False) for _, count in work]
    times: dict[str, list[float]] = {}
    start = perf_counter()
    for id, finished in llm.run_timed(prompts, params):
        times.setdefault(id, []).append(perf_counter() - start)
        if finished:
            bar.advance()
    seconds = perf_counter() - start
    after = llm.stats()
    first = np.array([t[0] for t in times.values()]) * 1000
    between = np.concatenate([np.diff(t) for t in times.values()]) * 1000
    tokens = sum(len(t) for t in times.values())
    queries = after.prefix_queries - before.prefix_queries
    return Result(
        workload=name,
        device=llm.device_name,
        dtype=llm.dtype,
        quantize=llm.options.quantize,
        requests=len(work),
        output_tokens=tokens,
        seconds=round(seconds, 3),
        tokens_per_second=round(tokens / seconds, 2),
        ttft_p50_ms=round(float(np.percentile(first, 50)), 1),
        ttft_p99_ms=round(float(np.percentile(first, 99)), 1),
        itl_p50_ms=round(float(np.percentile(between, 50)), 2),
        itl_p99_ms=round(float(np.percentile(between, 99)), 2),
        load_seconds=round(load, 2),
        prefix_hit_rate=round((after.prefix_hits - before.prefix_hits) / queries, 3) if queries else 0.0,
        preemptions=after.preemptions - before.preemptions,
    )


def as_dict(result: Result) -> dict[str, Any]:
    return asdict(result)
