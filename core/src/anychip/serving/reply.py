"""What the two endpoints' answers have in common: a whole answer or a stream of chunks from the same pieces."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import UNSET

from anychip import __version__
from anychip.serving.errors import to_api_error
from anychip.serving.generation import Generation, Job, Piece, Tally
from anychip.serving.schemas import Answer, Usage

DONE = b"data: [DONE]\n\n"


class Reply(ABC):
    """One request's answer. include_usage: a stream ends with a chunk of token counts."""

    def __init__(self, id: str, model: str, include_usage: bool) -> None:
        self._id = id
        self._model = model
        self._created = int(time.time())
        self._include_usage = include_usage

    async def prepare(self, piece: Piece) -> None:  # noqa: B027 - most answers need nothing
        """What a piece needs done before it is added or cut into chunks and would hold other requests up."""

    @abstractmethod
    def add(self, piece: Piece) -> None:
        """Takes a piece of what will be a whole answer."""

    @abstractmethod
    def whole(self, usage: Usage) -> Answer:
        """The answer, when all pieces were added."""

    @abstractmethod
    def chunks(self, piece: Piece) -> Iterable[Answer]:
        """A streamed answer's chunks for one piece."""

    @abstractmethod
    def usage_chunk(self, usage: Usage) -> Answer:
        """A chunk with no choices."""

    def _head(self, object: str, usage: Usage | None = None) -> dict[str, Any]:
        """usage: None for a chunk that has none."""
        shown = usage if usage is not None else None if self._include_usage else UNSET
        return {
            "id": self._id,
            "object": object,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": f"anychip-{__version__}",
            "usage": shown,
        }

    async def collect(self, generation: Generation, job: Job) -> bytes:
        """The whole answer as JSON."""
        tally = Tally(job)
        async with aclosing(generation.run(job, tally)) as pieces:
            async for piece in pieces:
                await self.prepare(piece)
                self.add(piece)
        return msgspec.json.encode(self.whole(tally.usage))

    async def events(self, generation: Generation, job: Job) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events. An error before the first one is raised; a later one is an event, and
        the last."""
        tally, started = Tally(job), False
        try:
            async with aclosing(generation.run(job, tally)) as pieces:
                async for piece in pieces:
                    await self.prepare(piece)
                    if events := b"".join(map(_event, self.chunks(piece))):
                        yield events
                        started = True
        except Exception as error:
            if not started:
                raise
            yield b"data: " + to_api_error(error).body + b"\n\n"
            return
        yield (_event(self.usage_chunk(tally.usage)) if self._include_usage else b"") + DONE


def _event(chunk: Answer) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"
