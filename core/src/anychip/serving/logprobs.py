"""Logprobs in the forms of OpenAI's two endpoints."""

from __future__ import annotations

from collections.abc import Sequence

from anychip.loading.tokenizer import HALF_CHARACTER, Detokenizer, Tokenizer
from anychip.outputs import Logprob, TokenLogprobs
from anychip.serving.schemas import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob

LEAST = -9999.0
"""OpenAI's stand-in for minus infinity, which JSON cannot hold."""


class CompletionLogprobsWriter:
    """Writes the logprobs of one text as it grows. The text begins after `context`, with `offset` characters of
    other text before it."""

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int], offset: int, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, context, skip_special_tokens)
        self._offset = offset

    def write(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs | None]) -> CompletionLogprobs:
        """tokens and logprobs: as many of both; None where a token has no logprob (a prompt's first)."""
        out = CompletionLogprobs([], [], [], [])
        for token, entry in zip(tokens, logprobs, strict=True):
            out.tokens.append(self._tokenizer.token_text(token))
            out.token_logprobs.append(None if entry is None else _finite(entry.chosen))
            out.top_logprobs.append(None if entry is None else self._top(entry))
            out.text_offset.append(self._offset)
            self._offset += len(self._detokenizer.push([token]))
        return out

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens and the chosen one. Of several with the same text, the likeliest."""
        found: dict[str, float] = {}
        for logprob in (*entry.top, entry.chosen):
            found.setdefault(self._tokenizer.token_text(logprob.token_id), _finite(logprob))
        return found


def extend(whole: CompletionLogprobs, gain: CompletionLogprobs) -> None:
    whole.tokens += gain.tokens
    whole.token_logprobs += gain.token_logprobs
    whole.top_logprobs += gain.top_logprobs
    whole.text_offset += gain.text_offset


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprobs]) -> ChatLogprobs:
    content = []
    for entry in entries:
        token, logprob, utf8 = _described(tokenizer, entry.chosen)
        top = [TopLogprob(*_described(tokenizer, other)) for other in entry.top]
        content.append(ChatTokenLogprob(token, logprob, utf8, top))
    return ChatLogprobs(content)


def _described(tokenizer: Tokenizer, logprob: Logprob) -> tuple[str, float, list[int] | None]:
    text = tokenizer.token_text(logprob.token_id)
    return text, _finite(logprob), None if HALF_CHARACTER in text else list(text.encode())


def _finite(logprob: Logprob) -> float:
    return max(logprob.logprob, LEAST)
