"""What a request gives back, whole or in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True)
class Logprob:
    """One token's natural-log probability under the model, before temperature, penalties and biases. Rank 1 is
    the most likely token."""

    token_id: int
    logprob: float
    rank: int | None = None


@dataclass(frozen=True)
class TokenLogprobs:
    """The chosen token and the most likely ones at its place, best first."""

    chosen: Logprob
    top: tuple[Logprob, ...] = ()


@dataclass
class CompletionOutput:
    """One completion. `text`, `token_ids` and `logprobs` hold everything so far; `new_*` what this piece added."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """the stop string or token id that ended it"""
    new_text: str = ""
    new_token_ids: list[int] = field(default_factory=list)
    new_logprobs: list[TokenLogprobs] = field(default_factory=list)


@dataclass
class RequestOutput:
    """The state of one request. In a stream every piece holds only the completions that moved."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    """one per prompt token; the first has none"""
    num_cached_tokens: int = 0
    """prompt tokens taken from the prefix cache"""
    error: str | None = None
    """why the request failed, when a finish_reason is "error" """
    queue_seconds: float | None = None
    """from the request's coming to the first step that computed it; None until then"""


@dataclass(frozen=True)
class EngineStats:
    """Counters since the start and gauges of now."""

    running: int
    waiting: int
    kv_usage: float
    """share of KV pages in use, 0 to 1, of the fullest group"""
    preemptions: int
    prefix_queries: int
    """prompt tokens looked up in the prefix cache"""
    prefix_hits: int
    """prompt tokens found there"""
    prompt_tokens: int
    generated_tokens: int
    steps: int
