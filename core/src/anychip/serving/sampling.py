"""From a request's fields to SamplingParams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anychip.errors import RequestError
from anychip.sampling_params import SamplingParams
from anychip.serving.schemas import ChatRequest, CompletionRequest, GenerationRequest

_SHARED = (
    "n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "logit_bias", "seed", "max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos", "skip_special_tokens",
    "include_stop_str_in_output",
)  # fmt: skip


def completion_params(request: CompletionRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """defaults: the model's own, under what the request sets. Raises RequestError, naming the field."""
    params = SamplingParams(
        **{**defaults, **_given(request)},
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
    )
    if request.best_of is not None and request.best_of != params.n:
        raise RequestError(f"best_of is {request.best_of}; expected n, which is {params.n}, or nothing", "best_of")
    return params


def chat_params(request: ChatRequest, defaults: Mapping[str, Any]) -> SamplingParams:
    """As `completion_params`. Without max_completion_tokens an answer may fill the context."""
    given = {"max_tokens": None, **_given(request)}
    if request.max_completion_tokens is not None:
        if request.max_tokens not in (None, request.max_completion_tokens):
            raise RequestError(
                f"max_tokens is {request.max_tokens} and max_completion_tokens {request.max_completion_tokens}; "
                "give one of them",
                "max_tokens",
            )
        given["max_tokens"] = request.max_completion_tokens
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError(
            f"top_logprobs is {request.top_logprobs} without logprobs; set logprobs to true", "top_logprobs"
        )
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return SamplingParams(**{**defaults, **given}, logprobs=logprobs)


def _given(request: GenerationRequest) -> dict[str, Any]:
    return {name: value for name in _SHARED if (value := getattr(request, name)) is not None}
