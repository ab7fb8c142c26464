"""The synchronous front: prompts in, finished outputs out."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from anychip.engine.build import build, check_params, encode
from anychip.engine.options import EngineOptions
from anychip.engine.running import Running
from anychip.engine.text import RequestText
from anychip.errors import AnychipError, EngineDeadError, RequestError
from anychip.outputs import EngineStats, RequestOutput
from anychip.progress import Progress
from anychip.sampling_params import SamplingParams

Prompt = str | Sequence[int]


class LLM:
    """A model on a device.

    model: a checkpoint directory, a hub id ("org/name"), or "demo". options: those of `EngineOptions`.
    Raises AnychipError, in one line, for whatever cannot work.

    Threads may share one: they take turns, a step at a time, and a step moves the requests of all.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        device: str = "auto",
        *,
        skip_tokenizer: bool = False,
        progress: bool = False,
        **options: Any,
    ) -> None:
        self.options = EngineOptions(device=device, **options)
        self._built = build(model, self.options, tokenizer=not skip_tokenizer, progress=progress)
        self._core = self._built.core
        self._running: Running[RequestText] = Running(self._core)
        self._done: dict[RequestText, list[RequestText]] = {}  # who runs a text -> where it is put when it is finished
        self._lock = threading.RLock()  # of the core and all texts; again where a stream is dropped within a step
        self._ids = itertools.count(1)
        self._closed = False

    @property
    def max_model_len(self) -> int:
        return self._core.max_model_len

    @property
    def tokenizer(self) -> Any:
        """The `anychip.loading.tokenizer.Tokenizer`, or None with `skip_tokenizer`."""
        return self._built.tokenizer

    @property
    def device_name(self) -> str:
        return self._built.choice.info.name

    @property
    def device_reason(self) -> str:
        """Why this device: it was asked for, or what made it the best one."""
        return self._built.choice.reason

    @property
    def dtype(self) -> str:
        """What the weights are computed in."""
        return self._built.budget.dtype

    @property
    def vocab_size(self) -> int:
        return self._core.vocab_size

    def default_params(self, **overrides: Any) -> SamplingParams:
        """What the model's generation_config.json asks for, under `overrides`."""
        return SamplingParams.from_generation_config(self._built.generation_config, **overrides)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        priority: int | Sequence[int] = 0,
        cache_salt: str = "",
        progress: bool = False,
    ) -> list[RequestOutput]:
        """prompts: one text or list of token ids, or a list of these. params: one for all, or one each; None takes
        the model's defaults. Returns an output per prompt, in order. Raises RequestError, before anything runs, if
        one of them cannot be served."""
        asked = _listed(prompts)
        each = list(params) if isinstance(params, Sequence) else [params or self.default_params()] * len(asked)
        ranks = [priority] * len(asked) if isinstance(priority, int) else list(priority)
        if not len(asked) == len(each) == len(ranks):
            raise RequestError(
                f"{len(asked)} prompts, {len(each)} params and {len(ranks)} priorities; expected as many"
            )
        made = [self._make(p, one, rank, cache_salt) for p, one, rank in zip(asked, each, ranks, strict=True)]
        with Progress("generating", len(made), unit="requests", shown=progress) as bar:
            for _ in self._run(made):
                bar.advance()
        return [text.whole() for text in made]

    def run_timed(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> Iterator[tuple[str, bool]]:
        """For measurements: (request id, finished) for each token as it is made, one completion per prompt. Raises
        AnychipError when a request fails: what is left would be measured as if it were all."""
        texts = [self._make(p, one, 0, "") for p, one in zip(prompts, params, strict=True)]
        for text in texts:
            self._core.add(text.requests)
        try:
            while self._core.has_work:
                for event in self._core.step():
                    if event.error is not None:
                        raise AnychipError(f"the request failed: {event.error}")
                    yield event.request.id, event.request.finish_reason is not None
        finally:
            for text in texts:
                self._running.cancel(text)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Generator[RequestOutput, None, None]:
        """The pieces of one request as they come. Closing the iterator cancels it. Raises RequestError at once for
        what cannot be served."""
        return self._pieces(self._make(prompt, params or self.default_params(), 0, ""))

    def _pieces(self, text: RequestText) -> Generator[RequestOutput, None, None]:
        self._add(text)
        try:
            while True:
                with self._lock:
                    piece = text.output() if text.moved else None
                    if piece is None and not text.finished:  # nor moved by steps that another reader asked for
                        self._step()
                        continue
                if piece is None:
                    return
                yield piece
        finally:
            self._cancel(text)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None
    ) -> Generator[RequestOutput, None, None]:
        """`stream` over a conversation, put into words by the model's chat template."""
        return self.stream(self.chat_prompt(messages), params)

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn. Raises RequestError without a template."""
        return self._built.chat_prompt(messages)

    def stats(self) -> EngineStats:
        return self._core.stats()

    def reset_prefix_cache(self) -> None:
        """Forgets all cached prefixes; for measurements."""
        self._core.kv.forget_prefixes()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._core.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, prompt: Prompt, params: SamplingParams, priority: int, salt: str) -> RequestText:
        self._check_open()
        id = str(next(self._ids))
        ids = encode(self._built.tokenizer, prompt)
        check_params(params, self._built.tokenizer)
        requests = self._core.make(id, ids, params, priority=priority, salt=salt)
        return RequestText(id, prompt if isinstance(prompt, str) else None, requests, self._built.tokenizer)

    def _run(self, texts: list[RequestText]) -> Iterator[RequestText]:
        """Yields each as it finishes. Whatever ends this early cancels the rest."""
        done: list[RequestText] = []  # by anybody's step
        for text in texts:
            self._add(text, done)
        left = len(texts)
        try:
            # The last text may finish while an asynchronous device runs a step more, which nobody else would book.
            while left or (self._core.has_work and not self._running):
                with self._lock:
                    if not done:
                        self._step()
                    taken = done.copy()
                    done.clear()
                left -= len(taken)
                yield from taken
        finally:
            for text in texts:
                self._cancel(text)

    def _add(self, text: RequestText, done: list[RequestText] | None = None) -> None:
        """done: gets the text once it is finished."""
        with self._lock:
            if done is not None:
                self._done[text] = done
            self._running.add(text)

    def _cancel(self, text: RequestText) -> None:
        with self._lock:
            self._done.pop(text, None)
            self._running.cancel(text)

    def _step(self) -> None:
        """One engine step. It moves all that runs, streams that are not being read too."""
        with self._lock:
            self._check_open()
            for text in self._running.step():
                if text.finished and (done := self._done.pop(text, None)) is not None:
                    done.append(text)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineDeadError("the engine was closed; start a new one")


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A prompt has a length, and a token has none."""
    if isinstance(prompts, str) or not hasattr(prompts, "__len__"):
        return [prompts]  # type: ignore[list-item]
    if len(prompts) and not hasattr(prompts[0], "__len__"):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]
