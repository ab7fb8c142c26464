"""One shared key for the whole API."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from anychip.errors import AnychipError
from anychip.serving.errors import ApiError

FREE_PATHS = ("/health",)


def check_key(key: str | None) -> None:
    """Raises AnychipError for a key that no client can send, as one read from a file with its line break."""
    if key is not None and key != key.strip():
        raise AnychipError("the API key begins or ends with white space, which no client can send; take it off")


class ApiKeyMiddleware:
    """Asks for `Authorization: Bearer KEY` everywhere but on FREE_PATHS."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in FREE_PATHS or self._knows_key(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "the API key is missing or wrong; send it as Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await error.response(scope, receive, send)

    def _knows_key(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # Headers are Latin-1 text; the comparison takes the same time wherever the first difference is.
        return hmac.compare_digest(given.strip(" \t").encode("latin-1"), self._key) and scheme.lower() == "bearer"
