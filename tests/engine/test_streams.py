"""Streams of an engine in its own thread: what comes, comes in order and once, however slowly it is read."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import numpy as np
import pytest
from anychip import AsyncEngine, RequestError, SamplingParams
from anychip.engine.async_engine import _Stream
from anychip.engine.text import RequestText
from anychip.errors import EngineDeadError
from anychip.request import Request
from anychip.scheduler.scheduler import PROMPT_LOGPROBS_CHUNK


def _told(pieces):
    """Tokens told by the end of each piece."""
    return list(itertools.accumulate(len(piece.outputs[0].new_token_ids) for piece in pieces))


def test_async_streams_cancel_and_close():
    async def main():
        engine = AsyncEngine("demo", "numpy", max_num_seqs=4)
        params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)

        async def collect(prompt):
            return [piece async for piece in engine.generate(prompt, params)]

        streams = await asyncio.gather(*(collect(p) for p in ("Return", "def f", "The file")))
        assert all(s[-1].finished and len(s[-1].outputs[0].token_ids) == 12 for s in streams)
        assert all("".join(p.outputs[0].new_text for p in s) == s[-1].outputs[0].text for s in streams)
        # A piece that is kept stays what it was.
        assert all([len(p.outputs[0].token_ids) for p in s] == _told(s) for s in streams)

        endless = engine.generate("Return", SamplingParams(temperature=0, max_tokens=None, ignore_eos=True))
        await anext(endless)
        await endless.aclose()
        with pytest.raises(RequestError, match="prompt"):
            await anext(engine.generate([], params))
        assert len((await collect("Return"))[-1].outputs[0].token_ids) == 12
        await engine.close()
        assert engine.stats().running == 0
        assert engine.stats().kv_usage == 0
        with pytest.raises(EngineDeadError):
            await anext(engine.generate("x", params))

    asyncio.run(main())


def test_who_falls_behind_finds_what_came_meanwhile_in_one_piece():
    """Pieces that wait for a client who has stopped reading would each hold all the text so far."""

    async def main():
        engine = AsyncEngine("demo", "numpy")
        params = SamplingParams(temperature=0, max_tokens=40, logprobs=1, ignore_eos=True)
        wanted = [piece async for piece in engine.generate("Return", params)][-1]
        slow = engine.generate("Return", params)
        first = await anext(slow)
        async for _ in engine.generate("def f", replace(params, max_tokens=60)):
            pass
        rest = [piece async for piece in slow]
        await engine.close()
        (last,) = rest
        assert (last.finished, last.outputs[0].token_ids) == (True, wanted.outputs[0].token_ids)
        assert _told([first, last])[-1] == len(first.outputs[0].new_logprobs + last.outputs[0].new_logprobs) == 40
        assert first.outputs[0].new_text + last.outputs[0].new_text == wanted.outputs[0].text

    asyncio.run(main())


def test_no_piece_is_empty():
    """A long prompt's logprobs come in parts, before there is anything to tell."""

    async def main():
        engine = AsyncEngine("demo", "numpy")
        params = SamplingParams(temperature=0, max_tokens=2, prompt_logprobs=0)
        pieces = [piece async for piece in engine.generate("Return a list. " * 40, params)]
        await engine.close()
        assert len(pieces[0].prompt_logprobs) > PROMPT_LOGPROBS_CHUNK
        assert all(piece.outputs for piece in pieces)

    asyncio.run(main())


def test_a_closed_loop_has_nobody_left_to_tell():
    loop = asyncio.new_event_loop()
    stream = _Stream(
        RequestText("1", None, [Request("1", np.ones(1, np.int32), SamplingParams(), 0, frozenset(), 2, 0)], None), loop
    )
    loop.close()
    stream.die("the engine stopped")
