"""From tokens to text, off the device's path: detokenizing, stop strings, and the pieces of a stream."""

from __future__ import annotations

from anychip.engine.core import Event
from anychip.loading.tokenizer import Detokenizer, Tokenizer
from anychip.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from anychip.request import Request


class CompletionText:
    """One completion as it grows. With stop strings, text that could begin one is held back until it cannot."""

    def __init__(self, index: int, request: Request, tokenizer: Tokenizer | None) -> None:
        self.output = CompletionOutput(index, logprobs=None if request.params.logprobs is None else [])
        self._params = request.params
        self._detokenizer = None
        if tokenizer is not None and request.params.detokenize:
            self._detokenizer = Detokenizer(tokenizer, request.prompt.tolist(), request.params.skip_special_tokens)
        self._told_end = False
        self._pending = ""  # detokenized, not yet shown
        self._exempt = 0  # characters of `_pending` from before min_tokens: no stop string ends in them
        self._hold = max((len(s) for s in request.params.stop_strings), default=1) - 1

    def push(self, event: Event) -> str | None:
        """Adds an event's token. Returns the stop string that ended the completion, if one did."""
        out, request = self.output, event.request
        if event.token is not None:
            out.token_ids.append(event.token)
            out.new_token_ids.append(event.token)
            if event.logprobs is not None and out.logprobs is not None:
                out.logprobs.append(event.logprobs)
                out.new_logprobs.append(event.logprobs)
            hidden = request.finish_reason == "stop" and event.token == request.stop_reason
            if self._detokenizer is not None and not hidden:
                self._pending += self._detokenizer.push([event.token])
        ended = request.finish_reason is not None
        if ended and self._detokenizer is not None:
            self._pending += self._detokenizer.finish()
        if len(out.token_ids) < self._params.min_tokens:
            self._exempt = len(self._pending)
        stop = self._cut()
        if stop is None:
            shown = len(self._pending) if ended else max(0, len(self._pending) - self._hold)
            self._show(self._pending[:shown])
            self._pending = self._pending[shown:]
            self._exempt = max(0, self._exempt - shown)
            out.finish_reason, out.stop_reason = request.finish_reason, request.stop_reason
        return stop

    def _cut(self) -> str | None:
        """Ends the text at the first stop string in it."""
        found = [
            (i, s)
            for s in self._params.stop_strings
            if (i := self._pending.find(s, max(0, self._exempt + 1 - len(s)))) >= 0
        ]
        if not found:
            return None
        start, stop = min(found)
        self._show(
            self._pending[: start + len(stop)] if self._params.include_stop_str_in_output else self._pending[:start]
        )
        self._pending = ""
        self.output.finish_reason, self.output.stop_reason = "stop", stop
        return stop

    def _show(self, text: str) -> None:
        self.output.text += text
        self.output.new_text += text

    def piece(self) -> CompletionOutput:
        """What moved since the last piece, beside everything so far. Its lists are its own: who keeps it may read it
        while the engine's thread writes on."""
        o = self.output
        logprobs = None if o.logprobs is None else o.logprobs.copy()
        piece = CompletionOutput(
            o.index, o.text, o.token_ids.copy(), logprobs, o.finish_reason, o.stop_reason, o.new_text, o.new_token_ids,
            o.new_logprobs,
        )  # fmt: skip
        o.new_text, o.new_token_ids, o.new_logprobs = "", [], []
        self._told_end = o.finish_reason is not None
        return piece

    @property
    def moved(self) -> bool:
        """Whether there is anything that no piece has told."""
        o = self.output
        return bool(o.new_token_ids or o.new_text) or (o.finish_reason is not None and not self._told_end)


class RequestText:
    """All completions of one request, fed by the events of its parts."""

    def __init__(self, id: str, prompt: str | None, requests: list[Request], tokenizer: Tokenizer | None) -> None:
        self.id = id
        self.requests = requests
        self._prompt, self._prompt_ids = prompt, requests[0].prompt.tolist()
        self._texts = {r: CompletionText(i, r, tokenizer) for i, r in enumerate(requests)}
        wants_prompt = requests[0].params.prompt_logprobs is not None
        self._prompt_logprobs: list[TokenLogprobs | None] | None = [None] if wants_prompt else None
        self._error: str | None = None

    def push(self, event: Event) -> bool:
        """Takes one event. True: a stop string ended that part, and the engine should be told to stop it."""
        if self._prompt_logprobs is not None and event.prompt_logprobs:
            self._prompt_logprobs[event.start + 1 :] = event.prompt_logprobs
        self._error = event.error or self._error
        return self._texts[event.request].push(event) is not None

    @property
    def finished(self) -> bool:
        return all(t.output.finish_reason is not None for t in self._texts.values())

    @property
    def moved(self) -> bool:
        """Whether `output` has anything to tell."""
        return any(t.moved for t in self._texts.values())

    def output(self) -> RequestOutput:
        """A piece of the stream: the completions that moved since the last one."""
        moved = [t.piece() for t in self._texts.values() if t.moved]
        return self._make(moved)

    def whole(self) -> RequestOutput:
        """Everything, once it is finished."""
        return self._make([t.output for t in self._texts.values()])

    def _make(self, outputs: list[CompletionOutput]) -> RequestOutput:
        first = self.requests[0]
        return RequestOutput(
            self.id,
            self._prompt,
            self._prompt_ids,
            outputs,
            self.finished,
            None if self._prompt_logprobs is None else self._prompt_logprobs.copy(),
            first.num_cached,
            self._error,
            first.queue_seconds,
        )
