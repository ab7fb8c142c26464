"""A client that leaves takes its request with it. The application is called as a server calls it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from anychip.serving.app import create_app
from fake_engine import FakeEngine
from http_client import chat_body

BODIES = {
    "/v1/completions": {"model": "fake", "prompt": ["a", "b"], "n": 2},
    "/v1/chat/completions": chat_body(),
}


class Client:
    """Sends one request, then leaves when `left` is set. `seen`: the body so far."""

    def __init__(self, path: str, body: dict[str, Any]) -> None:
        self.left = asyncio.Event()
        self.seen = b""
        self.answered = asyncio.Event()
        self.status: int | None = None
        self._messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self.scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [], "scheme": "http",
            "root_path": "", "server": ("test", 80), "client": ("test", 1),
        }  # fmt: skip

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        if message.get("body"):
            self.seen += message["body"]
            self.answered.set()


async def until(condition: Callable[[], bool]) -> None:
    async def turn() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(turn(), 30)


def run(engine: FakeEngine, path: str, stream: bool, leave: Callable[[Client], Awaitable[None]]) -> Client:
    async def scenario() -> Client:
        client = Client(path, {**BODIES[path], "stream": stream})
        app = asyncio.create_task(create_app(engine)(client.scope, client.receive, client.send))  # type: ignore[arg-type]
        await until(lambda: engine.running == len(engine.calls) > 0)
        await leave(client)
        await asyncio.wait_for(app, 30)
        assert engine.running == 0
        return client

    return asyncio.run(scenario())


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_leaving_before_the_first_token_cancels(path: str, stream: bool) -> None:
    engine = FakeEngine(hang_after=0)

    async def leave(client: Client) -> None:
        client.left.set()

    client = run(engine, path, stream, leave)
    assert len(engine.cancelled) == len(engine.calls)
    assert client.seen == b""


@pytest.mark.parametrize("path", BODIES)
def test_leaving_in_the_middle_of_a_stream_cancels(path: str) -> None:
    engine = FakeEngine(hang_after=3)

    async def leave(client: Client) -> None:
        await client.answered.wait()
        client.left.set()

    client = run(engine, path, True, leave)
    assert len(engine.cancelled) == len(engine.calls)
    assert client.seen.startswith(b"data: {")
    assert b"[DONE]" not in client.seen


def test_leaving_while_the_server_waits_to_send_cancels() -> None:
    engine = FakeEngine(answer="a" * 1000)

    class Slow(Client):
        async def send(self, message: Any) -> None:
            await super().send(message)
            if self.seen:
                await asyncio.Event().wait()

    async def scenario() -> None:
        client = Slow("/v1/chat/completions", chat_body(stream=True))
        app = asyncio.create_task(create_app(engine)(client.scope, client.receive, client.send))  # type: ignore[arg-type]
        await client.answered.wait()
        client.left.set()
        await asyncio.wait_for(app, 30)
        assert (engine.running, len(engine.cancelled)) == (0, 1)

    asyncio.run(scenario())


def test_a_cancelled_server_task_cancels_the_request() -> None:
    engine = FakeEngine(hang_after=1)

    async def scenario() -> None:
        client = Client("/v1/chat/completions", chat_body(stream=True))
        app = asyncio.create_task(create_app(engine)(client.scope, client.receive, client.send))  # type: ignore[arg-type]
        await client.answered.wait()
        app.cancel()
        await asyncio.gather(app, return_exceptions=True)
        assert (engine.running, len(engine.cancelled)) == (0, 1)

    asyncio.run(scenario())


def test_leaving_during_the_upload_is_no_error() -> None:
    engine = FakeEngine()

    async def scenario() -> None:
        client = Client("/v1/completions", {})
        client._messages.clear()
        client.left.set()
        await create_app(engine)(client.scope, client.receive, client.send)  # type: ignore[arg-type]
        assert client.status == 499
        assert engine.calls == []

    asyncio.run(scenario())


def test_others_are_served_while_some_wait_and_too_many_are_refused() -> None:
    engine = FakeEngine(hang_after=1)

    async def scenario() -> None:
        app = create_app(engine, max_completions=1)
        first = Client("/v1/chat/completions", chat_body(stream=True))
        task = asyncio.create_task(app(first.scope, first.receive, first.send))  # type: ignore[arg-type]
        await first.answered.wait()
        second = Client("/v1/chat/completions", chat_body())
        await app(second.scope, second.receive, second.send)  # type: ignore[arg-type]
        assert second.status == 503
        assert json.loads(second.seen)["error"]["code"] == "overloaded"
        first.left.set()
        await task

    asyncio.run(scenario())
