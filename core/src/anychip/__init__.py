"""anychip: one LLM inference engine for any chip.

    from anychip import LLM, SamplingParams
    print(LLM("demo", device="cpu").generate("Return the", SamplingParams(max_tokens=32))[0].outputs[0].text)

Importing this package is cheap: no framework is imported before a device is opened.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anychip.engine.async_engine import AsyncEngine
    from anychip.engine.llm import LLM
    from anychip.engine.options import EngineOptions
    from anychip.errors import AnychipError, CapacityError, ModelError, PlatformError, RequestError
    from anychip.outputs import CompletionOutput, Logprob, RequestOutput, TokenLogprobs
    from anychip.sampling_params import SamplingParams

__version__ = "0.1.0"

_HOMES = {
    "LLM": "anychip.engine.llm",
    "AsyncEngine": "anychip.engine.async_engine",
    "EngineOptions": "anychip.engine.options",
    "SamplingParams": "anychip.sampling_params",
    "RequestOutput": "anychip.outputs",
    "CompletionOutput": "anychip.outputs",
    "Logprob": "anychip.outputs",
    "TokenLogprobs": "anychip.outputs",
    "AnychipError": "anychip.errors",
    "CapacityError": "anychip.errors",
    "ModelError": "anychip.errors",
    "PlatformError": "anychip.errors",
    "RequestError": "anychip.errors",
}
__all__ = [
    "LLM",
    "AnychipError",
    "AsyncEngine",
    "CapacityError",
    "CompletionOutput",
    "EngineOptions",
    "Logprob",
    "ModelError",
    "PlatformError",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "TokenLogprobs",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'anychip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
