"""The workloads: deterministic prompts of token ids and output lengths, the same for every engine measured."""

from __future__ import annotations

import random

Workload = list[tuple[list[int], int]]
"""(prompt, tokens to generate) per request."""

NAMES = ("single", "batch", "prefix")
VOCABULARY = 16000


def make(name: str, vocabulary: int = VOCABULARY) -> Workload:
    """single: one request, latency. batch: 32 ragged requests, throughput. prefix: 24 requests that share a system
    prompt of 512 tokens. Raises KeyError for another name."""
    r = random.Random(7)  # noqa: S311

    def tokens(count: int) -> list[int]:
        return [r.randrange(3, vocabulary) for _ in range(count)]

    if name == "single":
        return [(tokens(128), 64)]
    if name == "batch":
        return [(tokens(r.randint(16, 256)), r.randint(16, 96)) for _ in range(32)]
    if name == "prefix":
        shared = tokens(512)
        return [(shared + tokens(r.randint(8, 32)), 32) for _ in range(24)]
    raise KeyError(name)
