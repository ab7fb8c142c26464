"""The answers of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Iterable

from anychip.loading.tokenizer import Tokenizer
from anychip.serving.generation import Piece
from anychip.serving.logprobs import chat_logprobs
from anychip.serving.reply import Reply
from anychip.serving.schemas import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    Usage,
)

OBJECT = "chat.completion"
CHUNK = "chat.completion.chunk"


class ChatReply(Reply):
    def __init__(self, id: str, model: str, include_usage: bool, tokenizer: Tokenizer, logprobs: bool) -> None:
        super().__init__(id, model, include_usage)
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._begun: set[int] = set()
        self._choices: dict[int, ChatChoice] = {}

    def add(self, piece: Piece) -> None:
        index, out, gained = piece.choice, piece.output, self._gained(piece)
        choice = self._choices.setdefault(index, ChatChoice(index, AssistantMessage(""), None, None))
        choice.message.content += out.new_text
        choice.finish_reason = out.finish_reason
        if gained is not None:
            if choice.logprobs is None:
                choice.logprobs = ChatLogprobs([])
            choice.logprobs.content += gained.content

    def whole(self, usage: Usage) -> ChatCompletion:
        choices = [choice for _, choice in sorted(self._choices.items())]
        return ChatCompletion(**self._head(OBJECT, usage), choices=choices)

    def chunks(self, piece: Piece) -> Iterable[ChatChunk]:
        """The role first, then content, then an empty delta with the finish_reason."""
        index, out, gained = piece.choice, piece.output, self._gained(piece)
        if index not in self._begun:
            self._begun.add(index)
            yield self._chunk(ChunkChoice(index, Delta("assistant", ""), None, None))
        if out.new_text or (gained is not None and gained.content):
            yield self._chunk(ChunkChoice(index, Delta(content=out.new_text), gained, None))
        if out.finish_reason is not None:
            yield self._chunk(ChunkChoice(index, Delta(), None, out.finish_reason))

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        return ChatChunk(**self._head(CHUNK, usage), choices=[])

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk(**self._head(CHUNK), choices=[choice])

    def _gained(self, piece: Piece) -> ChatLogprobs | None:
        return chat_logprobs(self._tokenizer, piece.output.new_logprobs) if self._logprobs else None
