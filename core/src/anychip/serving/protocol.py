"""What the server asks of an engine; `anychip.engine.async_engine.AsyncEngine` has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from anychip.loading.chat_template import ChatTemplate
from anychip.loading.tokenizer import Tokenizer
from anychip.outputs import EngineStats, RequestOutput
from anychip.sampling_params import SamplingParams


class Engine(Protocol):
    @property
    def model_name(self) -> str: ...

    @property
    def max_model_len(self) -> int:
        """tokens of prompt and output"""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def chat_template(self) -> ChatTemplate | None: ...

    @property
    def default_params(self) -> Mapping[str, Any]:
        """keyword arguments for SamplingParams, under those of a request"""

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation in the template's words, up to the answer. Raises RequestError."""

    @property
    def alive(self) -> bool: ...

    def stats(self) -> EngineStats: ...

    def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Closing it cancels the request. Raises RequestError or EngineDeadError."""

    async def close(self) -> None: ...
