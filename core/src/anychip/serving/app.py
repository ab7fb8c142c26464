"""The ASGI application: routes, and what each one does."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from anychip.errors import AnychipError
from anychip.loading.chat_template import no_template
from anychip.sampling_params import SamplingParams
from anychip.serving.auth import ApiKeyMiddleware, check_key
from anychip.serving.body import parse, prompts, read_body
from anychip.serving.chat import ChatReply
from anychip.serving.completions import CompletionReply, Prompt
from anychip.serving.disconnect import EventStream, unless_gone
from anychip.serving.errors import ApiError, http_error, to_api_error
from anychip.serving.generation import Generation, Job
from anychip.serving.metrics import Metrics
from anychip.serving.protocol import Engine
from anychip.serving.reply import Reply
from anychip.serving.sampling import chat_params, completion_params
from anychip.serving.schemas import ChatRequest, CompletionRequest, GenerationRequest, Model, ModelList

MAX_BODY = 16 * 2**20
MAX_COMPLETIONS = 4096


def create_app(
    engine: Engine,
    *,
    model_name: str | None = None,
    api_key: str | None = None,
    max_body: int = MAX_BODY,
    max_completions: int = MAX_COMPLETIONS,
) -> Starlette:
    """model_name: what clients call the model; None: the engine's name for it. max_body: bytes of a request.
    max_completions: how many may be under way at once; what is more gets 503. Closing the engine is the caller's."""
    if api_key == "":
        raise AnychipError("the API key is empty; give a key, or none to let everyone in")
    check_key(api_key)
    api = _Api(engine, model_name or engine.model_name, max_body, max_completions)
    routes = [
        Route("/v1/completions", _guarded(api.completions), methods=["POST"]),
        Route("/v1/chat/completions", _guarded(api.chat), methods=["POST"]),
        Route("/v1/models", _guarded(api.models), methods=["GET"]),
        Route("/v1/models/{id:path}", _guarded(api.model), methods=["GET"]),
        Route("/health", _guarded(api.health), methods=["GET"]),
        Route("/metrics", _guarded(api.metrics), methods=["GET"]),
    ]
    middleware = [] if api_key is None else [Middleware(ApiKeyMiddleware, key=api_key)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: http_error})


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Turns whatever the endpoint raises into an answer."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            return to_api_error(error).response

    return guarded


@dataclass(frozen=True)
class _Asked:
    """A request, and the names its answer goes by."""

    http: Request
    arrived: float
    id: str

    @classmethod
    def now(cls, request: Request, prefix: str) -> _Asked:
        return cls(request, time.perf_counter(), f"{prefix}-{uuid.uuid4().hex}")


class _Api:
    def __init__(self, engine: Engine, name: str, max_body: int, max_completions: int) -> None:
        self._engine = engine
        self._name = name
        self._max_body = max_body
        self._metrics = Metrics(engine)
        self._generation = Generation(engine, self._metrics, max_completions)
        self._model = Model(id=name, created=int(time.time()), max_model_len=engine.max_model_len)

    async def completions(self, http: Request) -> Response:
        asked = _Asked.now(http, "cmpl")
        request = parse(await read_body(http, self._max_body), CompletionRequest)
        self._check(request)
        params = completion_params(request, self._engine.default_params)
        given = prompts(request)
        self._generation.check_room(len(given) * params.n)
        listed = await asyncio.to_thread(self._encode, given, request)
        usage = _include_usage(request)
        reply = CompletionReply(asked.id, self._name, usage, self._engine.tokenizer, listed, params)
        return await self._answer(asked, request, reply, [p.ids for p in listed], params)

    async def chat(self, http: Request) -> Response:
        asked = _Asked.now(http, "chatcmpl")
        request = parse(await read_body(http, self._max_body), ChatRequest)
        self._check(request)
        params = chat_params(request, self._engine.default_params)
        self._generation.check_room(params.n)
        if self._engine.chat_template is None:
            raise no_template(self._name)
        messages = [message.for_template() for message in request.messages]
        ids = [await asyncio.to_thread(self._engine.chat_prompt, messages)]
        usage, logprobs = _include_usage(request), params.logprobs is not None
        reply = ChatReply(asked.id, self._name, usage, self._engine.tokenizer, logprobs)
        return await self._answer(asked, request, reply, ids, params)

    async def models(self, http: Request) -> Response:
        return _json(ModelList([self._model]))

    async def model(self, http: Request) -> Response:
        self._check_name(http.path_params["id"])
        return _json(self._model)

    async def health(self, http: Request) -> Response:
        self._check_alive()
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def metrics(self, http: Request) -> Response:
        return Response(self._metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def _answer(
        self,
        asked: _Asked,
        request: GenerationRequest,
        reply: Reply,
        ids: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> Response:
        field = "prompt" if isinstance(request, CompletionRequest) else "messages"
        job = Job(asked.id, ids, params, asked.arrived, field, request.priority or 0, request.cache_salt)
        receive = asked.http.receive
        if not request.stream:
            body = await unless_gone(receive, reply.collect(self._generation, job))
            return Response(body, media_type="application/json")
        events = reply.events(self._generation, job)

        async def first() -> bytes:
            return await anext(events)

        # The status is decided by what happens before the first event.
        return EventStream(await unless_gone(receive, first()), events)

    def _encode(self, given: list[str | list[int]], request: CompletionRequest) -> list[Prompt]:
        """Runs off the event loop, as a long text takes long."""
        encode = self._engine.tokenizer.encode_prompt
        return [Prompt(encode(p) if isinstance(p, str) else p, self._echo(p, request)) for p in given]

    def _echo(self, prompt: str | list[int], request: CompletionRequest) -> str:
        if not request.echo:
            return ""
        if isinstance(prompt, str):
            return prompt
        return self._engine.tokenizer.decode(prompt, request.skip_special_tokens is not False)

    def _check(self, request: GenerationRequest) -> None:
        self._check_name(request.model)
        self._check_alive()

    def _check_name(self, name: str) -> None:
        if name != self._name:
            message = f"there is no model {name[:200]!r} here; this server has {self._name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def _check_alive(self) -> None:
        if not self._engine.alive:
            raise ApiError(503, "the engine has stopped; restart the server", code="engine_dead")


def _include_usage(request: GenerationRequest) -> bool:
    return bool(request.stream_options and request.stream_options.include_usage)


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
