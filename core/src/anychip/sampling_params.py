"""How one request wants its tokens chosen. Every field is checked when the object is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from anychip.errors import RequestError
from anychip.names import Named

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_N = 128
MODEL_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a model's generation_config.json may set."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams(Named):
    """The names and meanings are those of OpenAI's API and its common extensions.

    Raises RequestError (a ValueError), naming the field, the value and the range.
    """

    _noun: ClassVar[str] = "sampling parameter"

    n: int = 1
    """completions per prompt, 1 to 128"""
    temperature: float = 1.0
    """0 to 100; 0 always takes the most likely token"""
    top_p: float = 1.0
    """in (0, 1]: keep the smallest set of tokens with this probability"""
    top_k: int = 0
    """keep this many tokens; 0 or -1 keeps all"""
    min_p: float = 0.0
    """0 to 1: keep tokens with at least this share of the largest probability"""
    repetition_penalty: float = 1.0
    """in (0, 10]: divides (or multiplies, where negative) logits of tokens seen in prompt or output"""
    presence_penalty: float = 0.0
    """-2 to 2: subtracted once from tokens generated before"""
    frequency_penalty: float = 0.0
    """-2 to 2: subtracted per time a token was generated before"""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """token id -> -100 to 100, added to its logit; at most 1,024 of them"""
    seed: int | None = None
    """0 to 2**63 - 1: same seed, same text, whatever else runs; None draws one"""
    max_tokens: int | None = 16
    """at least 1; None: as many as the context holds"""
    min_tokens: int = 0
    """no end-of-sequence or stop token before this many"""
    stop: str | Sequence[str] = ()
    """at most 16 strings that end the text; they are not part of it unless `include_stop_str_in_output`"""
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    """go on past the model's end-of-sequence token"""
    logprobs: int | None = None
    """0 to 20 alternatives beside each sampled token's logprob; None for no logprobs"""
    prompt_logprobs: int | None = None
    """the same for the prompt's tokens"""
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    detokenize: bool = True
    """False leaves `text` empty; stop strings then need a tokenizer and are refused"""

    def __post_init__(self) -> None:
        for name, least, most in _INTS:
            _check_int(name, getattr(self, name), least, most)
        for name, low, high in _FLOATS:
            _check_float(name, getattr(self, name), low, high)
        for name in _BOOLS:
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "true or false")
        if self.top_p <= 0:
            raise _bad("top_p", self.top_p, "a number greater than 0 and at most 1")
        if self.repetition_penalty <= 0:
            raise _bad("repetition_penalty", self.repetition_penalty, "a number greater than 0 and at most 10")
        self._check_collections()
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _bad("min_tokens", self.min_tokens, f"at most max_tokens, which is {self.max_tokens}")
        if self.stop and not self.detokenize:
            raise _bad("stop", list(self.stop), "empty when detokenize is false, since stop strings are found in text")

    def _check_collections(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, Sequence) or len(stop) > MAX_STOPS:
            raise _bad("stop", self.stop, f"a string or at most {MAX_STOPS} strings")
        for s in stop:
            if not isinstance(s, str) or not 0 < len(s) <= 1024:
                raise _bad("stop", s, "strings of 1 to 1,024 characters")
        object.__setattr__(self, "stop", tuple(stop))
        ids = self.stop_token_ids
        if isinstance(ids, str) or not isinstance(ids, Sequence) or len(ids) > 1024:
            raise _bad("stop_token_ids", ids, "a list of at most 1,024 token ids")
        for i in ids:
            _check_int("stop_token_ids", i, 0, 2**31 - 1)
        object.__setattr__(self, "stop_token_ids", tuple(ids))
        if not isinstance(self.logit_bias, Mapping) or len(self.logit_bias) > 1024:
            raise _bad("logit_bias", self.logit_bias, "a map of at most 1,024 token ids to numbers")
        for token, bias in self.logit_bias.items():
            _check_int("logit_bias", token, 0, 2**31 - 1)
            _check_float("logit_bias", bias, -100.0, 100.0)
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return tuple(self.stop)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any], **overrides: Any) -> SamplingParams:
        """The defaults a model asks for in generation_config.json, under what the caller sets.

        Without `do_sample: true` a model's default is greedy, whatever else the file sets, as Hugging Face has it."""
        chosen = {name: config[name] for name in MODEL_FIELDS if config.get(name) is not None}
        if config and not config.get("do_sample", False):
            chosen = {k: v for k, v in chosen.items() if k == "repetition_penalty"} | {"temperature": 0.0}
        return cls(**(chosen | overrides))


_INTS: tuple[tuple[str, int | None, int], ...] = (
    ("n", 1, MAX_N),
    ("top_k", -1, 2**31 - 1),
    ("min_tokens", 0, 2**31 - 1),
    ("seed", None, 2**63 - 1),
    ("max_tokens", None, 2**31 - 1),
    ("logprobs", None, MAX_LOGPROBS),
    ("prompt_logprobs", None, MAX_LOGPROBS),
)
_FLOATS = (
    ("temperature", 0.0, 100.0),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.0, 10.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
)
_BOOLS = ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output", "detokenize")


def _bad(name: str, value: object, expected: str) -> RequestError:
    try:
        shown = repr(value)
    except ValueError:  # an int of more digits than Python writes
        shown = "a number of thousands of digits"
    return RequestError(f"{name} is {shown[:80]}; expected {expected}", name)


def _check_int(name: str, value: object, low: int | None, high: int) -> None:
    """low None: the field may be None, and starts at 0 (max_tokens at 1)."""
    if low is None:
        if value is None:
            return
        low = 1 if name == "max_tokens" else 0
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _bad(name, value, f"a whole number from {low} to {high}")


def _check_float(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # nor NaN
        raise _bad(name, value, f"a number from {low:g} to {high:g}")
