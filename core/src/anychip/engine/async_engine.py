"""The asynchronous front: one engine thread, any number of coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from anychip.engine.build import Built, build, check_params, encode
from anychip.engine.core import EngineCore, Event
from anychip.engine.options import EngineOptions
from anychip.engine.running import Running
from anychip.engine.text import RequestText
from anychip.errors import EngineDeadError
from anychip.outputs import EngineStats, RequestOutput
from anychip.sampling_params import MODEL_FIELDS, SamplingParams


class _Stream:
    """One request's way from the engine thread to its coroutine. It holds no pieces: a reader that falls behind finds
    all that came meanwhile in one, so that a client who stops reading costs no more than its text."""

    def __init__(self, text: RequestText, loop: asyncio.AbstractEventLoop) -> None:
        self.text = text
        self.requests = text.requests
        self._lock = threading.Lock()  # of `text`: the engine's thread writes, the coroutine reads
        self._loop = loop
        self._moved = asyncio.Event()
        self._told = False  # whether `_moved` is set, or about to be
        self._dead: str | None = None

    async def take(self) -> RequestOutput:
        """What came since the last piece, once there is something. Raises EngineDeadError."""
        while True:
            await self._moved.wait()
            with self._lock:
                self._moved.clear()
                self._told = False
                if self.text.moved:
                    return self.text.output()
                if self._dead is not None:
                    raise EngineDeadError(self._dead)

    # -- on the engine's thread

    def push(self, event: Event) -> bool:
        """As `RequestText.push`."""
        with self._lock:
            return self.text.push(event)

    def tell(self) -> None:
        """Wakes the coroutine if there is something for it to take."""
        with self._lock:
            if self._told or not self.text.moved:
                return
            self._wake()

    def die(self, reason: str) -> None:
        """What came before is still told; then `take` raises."""
        with self._lock:
            self._dead = reason
            self._wake()

    def _wake(self) -> None:
        self._told = True
        with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody left to read
            self._loop.call_soon_threadsafe(self._moved.set)


class AsyncEngine:
    """model and options as for `LLM`. Start it anywhere; `generate` runs in any event loop. Its thread runs, and keeps
    the model, until `close`."""

    def __init__(self, model: str, device: str = "auto", *, progress: bool = False, **options: Any) -> None:
        self.options = EngineOptions(device=device, **options)
        self._built: Built = build(model, self.options, progress=progress)
        self._core: EngineCore = self._built.core
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._running: Running[_Stream] = Running(self._core)  # the engine thread's
        self._open: set[_Stream] = set()  # everyone who waits for a piece
        self._lock = threading.Lock()  # of `_open` and `_dead`: nobody may begin to wait once the engine is dead
        self._ids = itertools.count(1)
        self._dead: str | None = None
        self._stats = self._core.stats()
        self._thread = threading.Thread(target=self._run, name="anychip-engine", daemon=True)
        self._thread.start()

    model_name = property(lambda self: self._built.name)
    max_model_len = property(lambda self: self._core.max_model_len)
    tokenizer = property(lambda self: self._built.tokenizer)
    chat_template = property(lambda self: self._built.chat_template)

    @property
    def device_name(self) -> str:
        return self._built.choice.info.name

    @property
    def device_reason(self) -> str:
        """Why this device: it was asked for, or what made it the best one."""
        return self._built.choice.reason

    @property
    def default_params(self) -> Mapping[str, Any]:
        """Sampling fields that the model's generation_config.json sets."""
        params = SamplingParams.from_generation_config(self._built.generation_config)
        return {name: getattr(params, name) for name in MODEL_FIELDS}

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """As `LLM.chat_prompt`."""
        return self._built.chat_prompt(messages)

    @property
    def alive(self) -> bool:
        return self._dead is None and self._thread.is_alive()

    def stats(self) -> EngineStats:
        """As of the last step."""
        return self._stats

    async def generate(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Pieces of the output as they come; who reads slowly finds more tokens in each. Closing the iterator, or
        cancelling its task, cancels the request and frees its pages. Raises RequestError at the first piece,
        EngineDeadError when the engine has stopped."""
        params = params or SamplingParams.from_generation_config(self._built.generation_config)
        id = request_id or str(next(self._ids))
        ids = encode(self._built.tokenizer, prompt)
        check_params(params, self._built.tokenizer)
        requests = self._core.make(id, ids, params, priority=priority, salt=cache_salt or "")
        text = RequestText(id, prompt if isinstance(prompt, str) else None, requests, self._built.tokenizer)
        stream = _Stream(text, asyncio.get_running_loop())
        self._enter(stream)
        finished = False
        try:
            while not finished:
                piece = await stream.take()
                finished = piece.finished
                yield piece
        finally:
            with self._lock:
                self._open.discard(stream)
            if not finished:
                self._inbox.put(lambda: self._running.cancel(stream))

    async def close(self) -> None:
        """Cancels what runs and gives the device back."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _enter(self, stream: _Stream) -> None:
        with self._lock:
            if self._dead is not None:
                raise EngineDeadError(self._dead)
            self._open.add(stream)
        self._inbox.put(lambda: self._running.add(stream))

    # -- on the engine's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_commands():
                for stream in self._running.step():
                    stream.tell()
                self._stats = self._core.stats()
        except BaseException as error:  # a fault of ours, or a panic of the tokenizer: nobody may wait forever
            self._die(f"the engine stopped: {type(error).__name__}: {error}; start it again")
        else:
            self._die("the engine was closed; start a new one")
        self._core.close()
        self._stats = self._core.stats()

    def _die(self, reason: str) -> None:
        with self._lock:
            self._dead = reason
            left = set(self._open)
        for stream in left:
            stream.die(reason)

    def _take_commands(self) -> bool:
        """Waits for a command when there is nothing to run. False: close."""
        while True:
            try:
                command = self._inbox.get(block=not self._core.has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()
            self._stats = self._core.stats()
