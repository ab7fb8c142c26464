"""The answers of /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anychip.loading.tokenizer import Tokenizer
from anychip.outputs import TokenLogprobs
from anychip.sampling_params import SamplingParams
from anychip.serving.generation import Piece
from anychip.serving.logprobs import CompletionLogprobsWriter, extend
from anychip.serving.reply import Reply
from anychip.serving.schemas import Completion, CompletionChoice, CompletionLogprobs, Usage

OBJECT = "text_completion"


@dataclass(frozen=True)
class Prompt:
    """`echo`: its text, where the answer begins with it; else empty."""

    ids: Sequence[int]
    echo: str


class CompletionReply(Reply):
    def __init__(
        self,
        id: str,
        model: str,
        include_usage: bool,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        params: SamplingParams,
    ) -> None:
        super().__init__(id, model, include_usage)
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._params = params
        self._writers: dict[int, CompletionLogprobsWriter] = {}
        self._begun: set[int] = set()
        self._choices: dict[int, CompletionChoice] = {}
        self._echoed: dict[int, CompletionLogprobs] = {}  # of each prompt, for all its choices

    async def prepare(self, piece: Piece) -> None:
        """Writes the logprobs of an echoed prompt, off the event loop: there may be thousands."""
        index, of_prompt = piece.choice // self._params.n, piece.request.prompt_logprobs
        if self._params.logprobs is None or of_prompt is None or index in self._echoed:
            return
        self._echoed[index] = await asyncio.to_thread(self._write_prompt, self._prompts[index], of_prompt)

    def add(self, piece: Piece) -> None:
        gain = self._gain(piece)
        choice = self._choices.setdefault(gain.index, CompletionChoice(gain.index, "", None, None))
        choice.text += gain.text
        choice.finish_reason = gain.finish_reason
        if choice.logprobs is None:
            choice.logprobs = gain.logprobs
        elif gain.logprobs is not None:
            extend(choice.logprobs, gain.logprobs)

    def whole(self, usage: Usage) -> Completion:
        choices = [choice for _, choice in sorted(self._choices.items())]
        return Completion(**self._head(OBJECT, usage), choices=choices)

    def chunks(self, piece: Piece) -> Iterable[Completion]:
        gain = self._gain(piece)
        if gain.text or gain.finish_reason or (gain.logprobs is not None and gain.logprobs.tokens):
            yield Completion(**self._head(OBJECT), choices=[gain])

    def usage_chunk(self, usage: Usage) -> Completion:
        return Completion(**self._head(OBJECT, usage), choices=[])

    def _gain(self, piece: Piece) -> CompletionChoice:
        """What the piece adds to its choice; the first one adds the prompt, where it is echoed."""
        prompt, out = self._prompts[piece.choice // self._params.n], piece.output
        first = piece.choice not in self._begun
        self._begun.add(piece.choice)
        text = prompt.echo + out.new_text if first else out.new_text
        logprobs = self._logprobs(piece, prompt, first) if self._params.logprobs is not None else None
        return CompletionChoice(piece.choice, text, logprobs, out.finish_reason)

    def _logprobs(self, piece: Piece, prompt: Prompt, first: bool) -> CompletionLogprobs:
        gained = self._writer(piece.choice, prompt).write(piece.output.new_token_ids, piece.output.new_logprobs)
        echoed = self._echoed.get(piece.choice // self._params.n)
        if not first or echoed is None:
            return gained
        whole = CompletionLogprobs([], [], [], [])
        extend(whole, echoed)
        extend(whole, gained)
        return whole

    def _write_prompt(self, prompt: Prompt, logprobs: Sequence[TokenLogprobs | None]) -> CompletionLogprobs:
        writer = CompletionLogprobsWriter(self._tokenizer, (), 0, self._params.skip_special_tokens)
        return writer.write(prompt.ids, logprobs)

    def _writer(self, choice: int, prompt: Prompt) -> CompletionLogprobsWriter:
        if choice not in self._writers:
            self._writers[choice] = CompletionLogprobsWriter(
                self._tokenizer, prompt.ids, len(prompt.echo), self._params.skip_special_tokens
            )
        return self._writers[choice]
