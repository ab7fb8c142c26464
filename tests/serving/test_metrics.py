from __future__ import annotations

import re

from fake_engine import FakeEngine
from http_client import client


def scraped(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(anychip_\S+) (\S+)$", text, re.MULTILINE)}


def test_engine_numbers_are_those_of_the_scrape() -> None:
    engine = FakeEngine()
    with client(engine) as http:
        engine.running = 2
        response = http.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        found = scraped(response.text)
        assert found["anychip_requests_running"] == 2
        engine.running, engine.alive = 5, False
        found = scraped(http.get("/metrics").text)
    assert found["anychip_requests_running"] == 5
    assert found["anychip_engine_up"] == 0
    assert found["anychip_requests_waiting"] == 3
    assert found["anychip_kv_cache_usage_ratio"] == 0.25
    assert found["anychip_preemptions_total"] == 4
    assert found["anychip_prefix_cache_queries_total"] == 100
    assert found["anychip_prefix_cache_hits_total"] == 40
    assert found["anychip_prompt_tokens_total"] == 200
    assert found["anychip_generation_tokens_total"] == 300


def test_requests_are_timed_and_counted_by_their_end() -> None:
    with client(FakeEngine("abc")) as http:
        http.post("/v1/completions", json={"model": "fake", "prompt": "a", "n": 2})
        http.post("/v1/completions", json={"model": "fake", "prompt": "a", "max_tokens": 1})
        http.post("/v1/completions", json={"model": "fake", "prompt": [[]]})  # refused: counts nowhere
        http.post("/v1/completions", json={"model": "fake", "prompt": ["a", "b"], "n": 2, "max_tokens": 1})
        found = scraped(http.get("/metrics").text)
    assert found["anychip_queue_time_seconds_count"] == 4  # prompts, not completions
    assert found["anychip_queue_time_seconds_sum"] == 1
    assert found["anychip_time_to_first_token_seconds_count"] == 7
    assert found["anychip_inter_token_latency_seconds_count"] == 2 * 3
    assert found["anychip_request_latency_seconds_count"] == 7
    assert found['anychip_requests_finished_total{finish_reason="stop"}'] == 2
    assert found['anychip_requests_finished_total{finish_reason="length"}'] == 5
    assert found['anychip_requests_finished_total{finish_reason="abort"}'] == 0
    assert found['anychip_requests_finished_total{finish_reason="error"}'] == 0


def test_failures_are_counted() -> None:
    with client(FakeEngine(fail_after=1)) as http:
        http.post("/v1/completions", json={"model": "fake", "prompt": "a"})
        found = scraped(http.get("/metrics").text)
    assert found['anychip_requests_finished_total{finish_reason="error"}'] == 1


def test_two_applications_count_apart() -> None:
    with client() as one, client() as other:
        one.post("/v1/completions", json={"model": "fake", "prompt": "a"})
        found = scraped(other.get("/metrics").text)
    assert found['anychip_requests_finished_total{finish_reason="stop"}'] == 0
