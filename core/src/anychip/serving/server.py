"""Running the application: the port first, then the engine, then requests, and a clean end."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from anychip.errors import AnychipError
from anychip.serving.app import MAX_BODY, MAX_COMPLETIONS, create_app
from anychip.serving.protocol import Engine

GRACE = 15
"""Seconds that requests under way have to end after SIGINT or SIGTERM."""


def serve(
    engine_factory: Callable[[], Engine],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    model_name: str | None = None,
    api_key: str | None = None,
    max_body: int = MAX_BODY,
    max_completions: int = MAX_COMPLETIONS,
) -> None:
    """Serves until SIGINT or SIGTERM, then lets requests under way end, closes the engine and returns. A second
    SIGINT does not wait for them.

    The port is taken before the engine is made, so that a mistake shows at once, and answers only when the engine is
    ready: then "listening on http://..." is printed. port 0: a free one. The rest as for `create_app`. Raises
    AnychipError."""
    with _bind(host, port) as listener:
        engine = engine_factory()
        try:
            app = create_app(
                engine, model_name=model_name, api_key=api_key, max_body=max_body, max_completions=max_completions
            )
        except BaseException:
            asyncio.run(engine.close())
            raise
        config = uvicorn.Config(
            _cut_quietly(app),
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
        asyncio.run(_run(config, host, listener, engine))


def _cut_quietly(app: ASGIApp) -> ASGIApp:
    """A request that is cut off when the server stops is no fault to log with a traceback."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return run


async def _run(config: uvicorn.Config, host: str, listener: socket.socket, engine: Engine) -> None:
    try:
        await _Server(config, host).serve(sockets=[listener])
    finally:
        await engine.close()


class _Server(uvicorn.Server):
    """Says when it is ready. A signal is a wish to stop, and is not raised again after that was granted."""

    def __init__(self, config: uvicorn.Config, host: str) -> None:
        super().__init__(config)
        self._host = host
        self._loop = asyncio.get_running_loop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets is not None
        port = sockets[0].getsockname()[1]
        try:
            sockets[0].listen()  # who bound the same port at the same time may have been faster
        except OSError as error:
            raise _cannot_listen(self._host, port, error) from error
        await super().startup(sockets)
        shown = f"[{self._host}]" if ":" in self._host else self._host
        print(f"listening on http://{shown}:{port}", flush=True)  # noqa: T201

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
            self._loop.call_soon_threadsafe(self._cut_connections)
        self.should_exit = True

    def _cut_connections(self) -> None:
        """From Python 3.12.1 on, closing a server waits for them."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet."""
    if not 0 <= port <= 65535:
        raise AnychipError(f"port {port} does not exist; choose one from 0 to 65535 with --port")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise AnychipError(f"host {host!r} is unknown here ({why}); choose another with --host") from error
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        # A port whose last server has just ended is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> AnychipError:
    if error.errno == errno.EADDRINUSE:
        return AnychipError(f"port {port} on {host} is in use; choose another with --port")
    return AnychipError(f"cannot listen on port {port} of {host}: {error.strerror}; choose others with --host, --port")
