"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from anychip.cli.parser import number, size, whole
from anychip.errors import RequestError

NO_PREFIX_CACHING = "--no-prefix-caching"
NO_WARM_UP = "--no-warm-up"
NO_WEIGHT_CACHE = "--no-weight-cache"
_ENGINE: tuple[tuple[str, Any, str], ...] = (
    ("--dtype", str, "auto, float32, bfloat16, float16 or float64 (auto: the device's choice)"),
    ("--quantize", str, "keep linear layers in whole numbers: int8 or int4, or with a group: int8-g64, int4-g32, ..."),
    ("--kv-dtype", str, "what the KV cache is kept in: a dtype, int8 or fp8 (auto: as --dtype)"),
    ("--max-model-len", whole, "tokens of prompt and output (default: what the model and the memory allow)"),
    ("--max-num-seqs", whole, "requests that run at once (default 64)"),
    ("--max-num-batched-tokens", whole, "token budget of a step (default: the device's choice)"),
    ("--max-prefill-chunk", whole, "prompt tokens of one request in one step (default: the whole budget)"),
    ("--page-size", whole, "tokens per KV page (default: the device's choice)"),
    ("--kv-cache-memory", size, "for the KV cache, as in 4GiB or 500MB (default: half of what the weights leave)"),
    ("--memory-fraction", number, "share of the free memory for the KV cache (default 0.5)"),
    ("--policy", str, "fcfs or priority (default fcfs)"),
    ("--threads", whole, "host threads (default: the device's choice)"),
    ("--provider", str, "take ops from another library that the device knows; see anychip devices -v (default: none)"),
    ("--revision", str, "branch, tag or commit of a hub id"),
)
_SAMPLING: tuple[tuple[str, Any, str], ...] = (
    ("--max-tokens", whole, "tokens to write at most"),
    ("--min-tokens", whole, "tokens to write at least"),
    ("--temperature", number, "0 takes the most likely token (default: the model's)"),
    ("--top-p", number, "keep the smallest set of tokens with this probability"),
    ("--top-k", whole, "keep this many tokens"),
    ("--min-p", number, "keep tokens with this share of the largest probability"),
    ("--repetition-penalty", number, "over 1 makes tokens seen before less likely"),
    ("--presence-penalty", number, "-2 to 2"),
    ("--frequency-penalty", number, "-2 to 2"),
    ("--seed", whole, "the same seed gives the same text"),
)


def add_engine_options(
    parser: argparse.ArgumentParser, *, required: bool = True, without: tuple[str, ...] = ()
) -> None:
    """required: whether --model is. without: flags that mean nothing to the command."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--model",
        required=required,
        help='checkpoint directory, hub id (org/name), or "demo", which comes with anychip',
    )
    group.add_argument("--device", default="auto", help="auto, NAME or NAME:INDEX; see anychip devices")
    for flag, kind, text in _ENGINE:
        if flag not in without:
            group.add_argument(flag, type=kind, help=text)
    if NO_PREFIX_CACHING not in without:
        group.add_argument(NO_PREFIX_CACHING, action="store_true", help="do not keep prompts' pages for later ones")
    if NO_WARM_UP not in without:
        group.add_argument(NO_WARM_UP, action="store_true", help="compile or record steps when they come, not ahead")
    if NO_WEIGHT_CACHE not in without:
        group.add_argument(NO_WEIGHT_CACHE, action="store_true", help="keep no packed weights on disk, and use none")
    group.add_argument("--strict", action="store_true", help="refuse to start where an op would run on reference code")


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for LLM and AsyncEngine: what was given."""
    given = _given(options, _ENGINE)
    if getattr(options, "no_prefix_caching", False):
        given["prefix_caching"] = False
    if getattr(options, "no_warm_up", False):
        given["warm_up"] = False
    if getattr(options, "no_weight_cache", False):
        given["weight_cache"] = False
    return {"device": options.device, "strict": options.strict, **given}


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    for flag, kind, text in _SAMPLING:
        group.add_argument(flag, type=kind, help=text)
    group.add_argument("--stop", action="append", help="a string that ends the text; may be given again")
    group.add_argument("--ignore-eos", action="store_true", help="write on past the model's end-of-text token")


def sampling_options(options: argparse.Namespace, max_tokens: int) -> dict[str, Any]:
    """Keyword arguments for SamplingParams: what was given, checked before a model is loaded for it. max_tokens: where
    it was not given."""
    from anychip.sampling_params import SamplingParams

    given = {"max_tokens": max_tokens, **_given(options, _SAMPLING)}
    if options.stop:
        given["stop"] = options.stop
    if options.ignore_eos:
        given["ignore_eos"] = True
    SamplingParams(**given)
    return given


def _given(options: argparse.Namespace, table: tuple[tuple[str, Any, str], ...]) -> dict[str, Any]:
    names = [flag[2:].replace("-", "_") for flag, _, _ in table]
    return {name: value for name in names if (value := getattr(options, name, None)) is not None}


def positive(name: str, value: int) -> int:
    if value < 1:
        raise RequestError(f"--{name} is {value}; expected a whole number >= 1")
    return value
