"""What an engine is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from anychip_sdk.contract import QUANT_FORMATS, SCALED_KV

from anychip.errors import RequestError
from anychip.names import Named

_OPTIONAL_COUNTS = (
    "max_num_batched_tokens",
    "max_prefill_chunk",
    "page_size",
    "kv_cache_memory",
    "threads",
)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Named):
    """Raises RequestError, naming the option, for a value out of range and for an option that does not exist."""

    _noun: ClassVar[str] = "option"

    device: str = "auto"
    """auto, NAME or NAME:INDEX"""
    dtype: str = "auto"
    """auto (what the device prefers), float32, bfloat16, float16, float64"""
    kv_dtype: str = "auto"
    """auto: as dtype; beside its values int8 and fp8, 8 bits with a scale for each vector"""
    quantize: str | None = None
    """the linear layers' weights in whole numbers, made at load: a name of QUANT_FORMATS (int8, int4, ...)"""
    max_model_len: int | None = None
    """tokens of prompt and output; None: what the model allows and the KV cache can hold"""
    max_num_seqs: int = 64
    """requests that run at once"""
    max_num_batched_tokens: int | None = None
    """token budget of one step; longer prompts run in chunks; None: the device's choice"""
    max_prefill_chunk: int | None = None
    """prompt tokens of one request in one step; None: the whole budget"""
    page_size: int | None = None
    """tokens per KV page; None: the device's choice"""
    kv_cache_memory: int | None = None
    """bytes for the KV cache; None: memory_fraction of what is free after the weights"""
    kv_pages: int | None = None
    """pages per KV group, scratch included; overrides kv_cache_memory"""
    memory_fraction: float = 0.5
    """share of free memory the KV cache may take"""
    prefix_caching: bool = True
    policy: Literal["fcfs", "priority"] = "fcfs"
    threads: int | None = None
    """host threads a device may use; None: the device's choice"""
    provider: str | None = None
    """another library whose ops the device takes in place of its own, see anychip devices -v; None: none is taken"""
    revision: str | None = None
    """branch, tag or commit of a hub repository"""
    warm_up: bool = True
    """before the first request, have the device compile or record every step that can come; else each when it comes"""
    weight_cache: bool = True
    """keep packed weights on disk for the next start, where the device can"""
    strict: bool = False
    """refuse to start where an op would run on reference code, which is slow"""

    def __post_init__(self) -> None:
        self._require("device", isinstance(self.device, str), "auto, NAME or NAME:INDEX")
        self._require("max_num_seqs", _is_count(self.max_num_seqs, 1), "a whole number >= 1")
        for name in _OPTIONAL_COUNTS:
            v = getattr(self, name)
            self._require(name, v is None or _is_count(v, 1), "a whole number >= 1")
        length = self.max_model_len
        self._require(
            "max_model_len", length is None or _is_count(length, 2), "a whole number >= 2 (prompt and output)"
        )
        scratch = "a whole number >= 2 (page 0 is scratch)"
        self._require("kv_pages", self.kv_pages is None or _is_count(self.kv_pages, 2), scratch)
        share = self.memory_fraction
        number = isinstance(share, int | float) and not isinstance(share, bool)
        self._require("memory_fraction", number and 0 < share <= 1, "a number greater than 0 and at most 1")
        for name in ("prefix_caching", "warm_up", "weight_cache", "strict"):
            self._require(name, isinstance(getattr(self, name), bool), "true or false")
        self._require("revision", self.revision is None or isinstance(self.revision, str), "a branch, tag or commit")
        self._require("provider", self.provider is None or isinstance(self.provider, str), "the name of a provider")
        self._require("policy", self.policy in ("fcfs", "priority"), "fcfs or priority")
        dtypes = ("auto", "float32", "bfloat16", "float16", "float64")
        self._require("dtype", self.dtype in dtypes, "one of " + ", ".join(dtypes))
        kept = (*dtypes, *SCALED_KV)
        self._require("kv_dtype", self.kv_dtype in kept, "one of " + ", ".join(kept))
        known = self.quantize is None or self.quantize in QUANT_FORMATS
        self._require("quantize", known, "one of " + ", ".join(QUANT_FORMATS))

    def _require(self, name: str, ok: bool, expected: str) -> None:
        if not ok:
            raise RequestError(f"{name} is {getattr(self, name)!r}; expected {expected}", name)
