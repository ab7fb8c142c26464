"""Errors in the form OpenAI's clients read: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from anychip.errors import EngineDeadError, RequestError

ROUTES = ("/v1/models", "/v1/completions", "/v1/chat/completions", "/health", "/metrics")

logger = logging.getLogger(__name__)


class ErrorDetail(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    error: ErrorDetail


class ApiError(Exception):
    """An answer other than 200. `param`: the request's field at fault; `code`: a name that programs can test."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers

    @property
    def body(self) -> bytes:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return msgspec.json.encode(ErrorBody(ErrorDetail(str(self), kind, self.param, self.code)))

    @property
    def response(self) -> Response:
        return Response(self.body, self.status, headers=self.headers, media_type="application/json")


def to_api_error(error: Exception) -> ApiError:
    """What a client may know of any exception. One that is no user's fault goes to the log with its traceback."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=error.field)
    if isinstance(error, EngineDeadError):
        return ApiError(503, str(error), code="engine_dead")
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "internal error; the server's log says more", code="internal_error")


def http_error(request: Request, error: Exception) -> Response:
    """The router's own refusals: unknown route and wrong method."""
    assert isinstance(error, HTTPException)
    asked = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return ApiError(404, f"there is no {asked}; there are {', '.join(ROUTES)}").response
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{asked} is not allowed; use {allowed}"
        return ApiError(405, message, code="method_not_allowed", headers=error.headers).response
    return ApiError(error.status_code, error.detail, headers=error.headers).response
