"""One HTTP request's way through the engine: admission, its prompts side by side, one stream of pieces out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from anychip.errors import RequestError
from anychip.outputs import CompletionOutput, RequestOutput
from anychip.sampling_params import SamplingParams
from anychip.serving.errors import ApiError
from anychip.serving.metrics import Metrics, RequestMeter
from anychip.serving.protocol import Engine
from anychip.serving.schemas import PromptTokensDetails, Usage


@dataclass(frozen=True)
class Job:
    """What to generate. Choice `i` of the answer is completion `i % params.n` of prompt `i // params.n`."""

    id: str
    prompts: Sequence[Sequence[int]]
    params: SamplingParams
    arrived: float
    """time.perf_counter()"""
    field: str
    """what the request calls its prompt"""
    priority: int = 0
    cache_salt: str | None = None

    @property
    def completions(self) -> int:
        return len(self.prompts) * self.params.n


@dataclass(frozen=True)
class Piece:
    """What one choice gained. `output.new_*` is the gain; `request` has its prompt's logprobs."""

    choice: int
    output: CompletionOutput
    request: RequestOutput


class Tally:
    """The token counts of a job, complete when it has ended."""

    def __init__(self, job: Job) -> None:
        self._prompt = sum(map(len, job.prompts))
        self._cached = dict.fromkeys(range(len(job.prompts)), 0)
        self._completion = 0

    def add(self, prompt: int, output: RequestOutput) -> None:
        self._cached[prompt] = output.num_cached_tokens
        self._completion += sum(len(o.new_token_ids) for o in output.outputs)

    @property
    def usage(self) -> Usage:
        details = PromptTokensDetails(sum(self._cached.values()))
        return Usage(self._prompt, self._completion, self._prompt + self._completion, details)


class Generation:
    """Runs jobs. limit: completions that may be under way at once, over all requests."""

    def __init__(self, engine: Engine, metrics: Metrics, limit: int) -> None:
        self._engine = engine
        self._metrics = metrics
        self._limit = limit
        self._under_way = 0

    async def run(self, job: Job, tally: Tally) -> AsyncGenerator[Piece, None]:
        """Raises RequestError or ApiError, before the first piece for all that can be known by then. Closing it
        cancels the job."""
        self._check_length(job)
        self.check_room(job.completions)
        meter = RequestMeter(self._metrics, job.arrived, job.completions)
        self._under_way += job.completions
        reason: str | None = "abort"
        ended: set[int] = set()
        try:
            async with aclosing(_merged(self._streams(job))) as outputs:
                async for prompt, output in outputs:
                    tally.add(prompt, output)
                    meter.started(prompt, output.queue_seconds)
                    for piece in _pieces(prompt * job.params.n, output, ended):
                        meter.record(piece.choice, piece.output)
                        if piece.output.finish_reason in ("error", "abort"):
                            raise ApiError(500, output.error or "the engine gave up", code="generation_failed")
                        yield piece
        except RequestError:
            reason = None  # it never ran
            raise
        except Exception:
            reason = "error"
            raise
        finally:
            self._under_way -= job.completions
            meter.end(reason)

    def _streams(self, job: Job) -> list[AsyncGenerator[RequestOutput, None]]:
        return [
            self._engine.generate(
                prompt,
                job.params,
                request_id=f"{job.id}-{i}",
                priority=job.priority,
                cache_salt=job.cache_salt,
            )
            for i, prompt in enumerate(job.prompts)
        ]

    def _check_length(self, job: Job) -> None:
        longest = max(map(len, job.prompts))
        room = self._engine.max_model_len
        if longest >= room:
            raise ApiError(
                400,
                f"the prompt has {longest} tokens; this model's context of {room} must hold it and at least one new "
                f"token: shorten the prompt to {room - 1} tokens",
                param=job.field,
                code="context_length_exceeded",
            )

    def check_room(self, completions: int) -> None:
        """Raises RequestError for more than ever fit, ApiError (503) for more than fit now."""
        if completions > self._limit:
            raise RequestError(f"the request asks for {completions} completions; the limit is {self._limit}", "n")
        if self._under_way + completions > self._limit:
            message = f"the server is busy with {self._under_way} completions of at most {self._limit}; try again later"
            raise ApiError(503, message, code="overloaded", headers={"Retry-After": "1"})


def _pieces(first_choice: int, output: RequestOutput, ended: set[int]) -> list[Piece]:
    """ended: choices that have had their last piece; an engine may go on naming them, a client hears it once."""
    pieces = [Piece(first_choice + o.index, o, output) for o in output.outputs]
    pieces = [piece for piece in pieces if piece.choice not in ended]
    ended.update(piece.choice for piece in pieces if piece.output.finish_reason is not None)
    return pieces


async def _merged(
    streams: Sequence[AsyncGenerator[RequestOutput, None]],
) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """(stream's index, item) as the items come. The first error ends it; its end closes all streams."""
    if len(streams) == 1:  # the common case needs no task of its own
        async with aclosing(streams[0]) as only:
            async for output in only:
                yield 0, output
        return
    queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]] = asyncio.Queue(len(streams))
    pumps = [asyncio.create_task(_pump(i, stream, queue)) for i, stream in enumerate(streams)]
    try:
        open_streams = len(streams)
        while open_streams:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                open_streams -= 1
            else:
                yield index, item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(
    index: int,
    stream: AsyncGenerator[RequestOutput, None],
    queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]],
) -> None:
    """Every stream starts in the same turn of the loop, so a refused prompt is known before any output. Who does not
    read holds the streams up, which hold no pieces: `queue` must be bounded."""
    end: Exception | None = None
    try:
        async with aclosing(stream):
            async for output in stream:
                await queue.put((index, output))
    except Exception as error:
        end = error
    await queue.put((index, end))
