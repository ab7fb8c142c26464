"""An engine that says what it is told to, with a real tokenizer of one token per byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import tokenizers
from anychip.errors import EngineDeadError, RequestError
from anychip.loading.chat_template import ChatTemplate
from anychip.loading.tokenizer import Detokenizer, Tokenizer
from anychip.outputs import CompletionOutput, EngineStats, Logprob, RequestOutput, TokenLogprobs
from anychip.sampling_params import SamplingParams
from tokenizers import decoders, models, pre_tokenizers, processors

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
BOS, EOS = 256, 257


def byte_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    backend.add_special_tokens(["<s>", "</s>"])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>"}, None)


class FakeEngine:
    """Answers every prompt with `answer`, a byte a piece, then stops. hang_after: pieces after which it says no more.
    fail_after: pieces after which the engine reports an error. dies_after: pieces after which it is dead."""

    model_name = "fake"
    max_model_len = 64

    def __init__(
        self,
        answer: str = "Hello!",
        *,
        hang_after: int | None = None,
        fail_after: int | None = None,
        dies_after: int | None = None,
        raises: Exception | None = None,
        template: str | None = TEMPLATE,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = byte_tokenizer()
        self.chat_template = None if template is None else ChatTemplate(template)
        self.default_params: Mapping[str, Any] = defaults or {}
        self.alive = True
        self.answer = answer
        self.calls: list[dict[str, Any]] = []
        self.running = 0
        self.cancelled: list[str] = []
        self.closed = False
        self._hang_after, self._fail_after, self._dies_after, self._raises = hang_after, fail_after, dies_after, raises

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        assert self.chat_template is not None
        return self.tokenizer.encode(self.chat_template.render(messages), add_special_tokens=False)

    def stats(self) -> EngineStats:
        return EngineStats(self.running, 3, 0.25, 4, 100, 40, 200, 300, 50)

    async def close(self) -> None:
        self.closed = True

    async def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        assert not isinstance(prompt, str)
        if self._raises is not None:
            raise self._raises
        if not prompt:
            raise RequestError("the prompt is empty; expected at least one token", "prompt")
        self.calls.append({"prompt": list(prompt), "params": params, "priority": priority, "salt": cache_salt})
        id, self.running = request_id or "", self.running + 1
        finished = False
        try:
            for pieces, output in enumerate(self._outputs(id, list(prompt), params)):
                if pieces == self._hang_after:
                    await asyncio.Event().wait()
                if pieces == self._dies_after:
                    self.alive = False
                    raise EngineDeadError("the engine stopped: boom; start it again")
                if pieces == self._fail_after:
                    failed = [CompletionOutput(0, finish_reason="error")]
                    yield RequestOutput(id, None, list(prompt), failed, True, error="the device failed: boom")
                    return
                await asyncio.sleep(0)
                yield output
            finished = True
        finally:
            self.running -= 1
            if not finished:
                self.cancelled.append(id)

    def _outputs(self, id: str, prompt: list[int], params: SamplingParams) -> list[RequestOutput]:
        tokens = [*self.tokenizer.encode(self.answer, add_special_tokens=False), EOS]
        room = len(tokens) if params.max_tokens is None else params.max_tokens
        reason = "stop" if len(tokens) <= room else "length"
        tokens = tokens[:room]
        texts = [Detokenizer(self.tokenizer, prompt) for _ in range(params.n)]
        of_prompt = None
        if params.prompt_logprobs is not None:
            of_prompt = [None, *(self._logprobs(t, params.prompt_logprobs) for t in prompt[1:])]
        outputs = []
        for i, token in enumerate(tokens):
            last = i == len(tokens) - 1
            moved = []
            for index in range(params.n):
                text = texts[index].push([token]) + (texts[index].finish() if last else "")
                piece = CompletionOutput(index, new_text=text, new_token_ids=[token])
                piece.finish_reason = reason if last else None  # type: ignore[assignment]
                if params.logprobs is not None:
                    piece.new_logprobs = [self._logprobs(token, params.logprobs)]
                moved.append(piece)
            outputs.append(
                RequestOutput(id, None, prompt, moved, last, of_prompt, num_cached_tokens=2, queue_seconds=0.25)
            )
        return outputs

    def _logprobs(self, token: int, top: int) -> TokenLogprobs:
        """The chosen token is the likeliest but one, or unlikely beyond measure where it is the prompt's '!'."""
        best = tuple(Logprob((token + i) % 256, -0.5 - i, i + 1) for i in range(top))
        unlikely = token == self.tokenizer.encode("!", add_special_tokens=False)[0]
        return TokenLogprobs(Logprob(token, float("-inf") if unlikely else -0.5, 1), best)
