"""Several prompts of one HTTP request, side by side."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from anychip.outputs import RequestOutput
from anychip.serving.generation import _merged


def test_a_client_that_does_not_read_holds_its_prompts_up():
    """Pieces that pile up would each hold all the text so far."""
    made = []

    async def endless(name):
        while True:
            made.append(name)
            yield RequestOutput(name, None, [], [], False)
            await asyncio.sleep(0)

    async def main():
        async with aclosing(_merged([endless("a"), endless("b")])) as pieces:
            first, _ = await anext(pieces)
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(made) <= 6  # one read, two in the queue, one in the hand of each, one spare
            others = {(await anext(pieces))[0] for _ in range(8)}
            assert {first, *others} == {0, 1}

    asyncio.run(main())
