"""Prometheus metrics: the engine's counters as they are at the scrape, and latencies as clients see them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from anychip.outputs import CompletionOutput
from anychip.serving.protocol import Engine

# Seconds. From one decode step of a small model to a long prompt's prefill.
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0)
_FIRST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
_WHOLE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)


class Metrics:
    """Each application has its own registry."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine))
        self.first_token = Histogram(
            "anychip_time_to_first_token_seconds",
            "From a request's arrival to a completion's first token.",
            buckets=_FIRST_BUCKETS,
            registry=self._registry,
        )
        self.next_token = Histogram(
            "anychip_inter_token_latency_seconds",
            "Between two tokens of a completion.",
            buckets=_TOKEN_BUCKETS,
            registry=self._registry,
        )
        self.queue = Histogram(
            "anychip_queue_time_seconds",
            "From a prompt's arrival at the engine to the first step that computes it.",
            buckets=_FIRST_BUCKETS,
            registry=self._registry,
        )
        self.whole = Histogram(
            "anychip_request_latency_seconds",
            "From a request's arrival to the end of a completion.",
            buckets=_WHOLE_BUCKETS,
            registry=self._registry,
        )
        self.finished = Counter(
            "anychip_requests_finished",
            "Completions by how they ended (stop, length, abort, error); n of one request count n times.",
            ["finish_reason"],
            registry=self._registry,
        )
        for reason in ("stop", "length", "abort", "error"):
            self.finished.labels(reason)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """Reads the engine when it is scraped, so nothing is counted twice."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        s = self._engine.stats()
        yield GaugeMetricFamily("anychip_engine_up", "1 while the engine runs.", float(self._engine.alive))
        yield GaugeMetricFamily("anychip_requests_running", "Completions being computed.", s.running)
        yield GaugeMetricFamily("anychip_requests_waiting", "Completions waiting for pages or slots.", s.waiting)
        yield GaugeMetricFamily("anychip_kv_cache_usage_ratio", "Share of KV pages in use, 0 to 1.", s.kv_usage)
        for name, text, value in (
            ("anychip_preemptions", "Completions that gave up their pages to run again later.", s.preemptions),
            ("anychip_prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", s.prefix_queries),
            ("anychip_prefix_cache_hits", "Prompt tokens found in the prefix cache.", s.prefix_hits),
            ("anychip_prompt_tokens", "Tokens of prompts taken on.", s.prompt_tokens),
            ("anychip_generation_tokens", "Tokens generated.", s.generated_tokens),
            ("anychip_engine_steps", "Steps of the engine.", s.steps),
        ):
            yield CounterMetricFamily(name, text, value)


class RequestMeter:
    """Times the completions of one HTTP request. arrived: `time.perf_counter()` at its arrival."""

    def __init__(self, metrics: Metrics, arrived: float, completions: int) -> None:
        self._metrics = metrics
        self._arrived = arrived
        self._last: dict[int, float] = {}
        self._queued: set[int] = set()
        self._open = completions

    def started(self, prompt: int, queue_seconds: float | None) -> None:
        """Books how long a prompt of the request waited, once it is known."""
        if queue_seconds is not None and prompt not in self._queued:
            self._queued.add(prompt)
            self._metrics.queue.observe(queue_seconds)

    def record(self, index: int, output: CompletionOutput) -> None:
        now = time.perf_counter()
        if count := len(output.new_token_ids):
            if (last := self._last.get(index)) is None:
                self._metrics.first_token.observe(now - self._arrived)
            else:
                for _ in range(count):
                    self._metrics.next_token.observe((now - last) / count)
            self._last[index] = now
        if output.finish_reason is not None:
            self._open -= 1
            self._metrics.finished.labels(output.finish_reason).inc()
            self._metrics.whole.observe(now - self._arrived)

    def end(self, reason: str | None) -> None:
        """Books what is unfinished when the request ends early. None: it was refused, and counts nowhere."""
        if self._open and reason is not None:
            self._metrics.finished.labels(reason).inc(self._open)
