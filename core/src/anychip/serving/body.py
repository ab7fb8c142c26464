"""From the bytes of a request to a checked object."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from anychip.errors import RequestError
from anychip.names import meant
from anychip.serving.errors import ApiError
from anychip.serving.schemas import ChatRequest, Checked, CompletionRequest, GenerationRequest

T = TypeVar("T", bound=GenerationRequest)
READ_ON = 8
"""A body up to this many times too large is read to its end, and dropped: most clients send all of it before they
listen, and one that is cut off while it sends never reads why."""
# How msgspec ends a message: where in the body the problem is.
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_TYPES = re.compile(r"`([a-z| ]+)`")
_NOUNS = {
    "int": "a whole number", "float": "a number", "str": "a string", "bool": "a boolean", "array": "a list",
    "object": "an object", "null": "null",
}  # fmt: skip


async def read_body(request: Request, limit: int) -> bytes:
    """Raises ApiError (413) for more than `limit` bytes, of which no more than that is held."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit * READ_ON:
        raise _too_large(limit)
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit * READ_ON:
            break
        if size <= limit:
            pieces.append(piece)
    if size > limit:
        raise _too_large(limit)
    return b"".join(pieces)


def _too_large(limit: int) -> ApiError:
    # What may be left of the body stays unread, so the connection cannot be used again.
    message = f"the request's body is larger than {limit} bytes; send less"
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})


def parse(body: bytes, kind: type[T]) -> T:
    """Raises ApiError or RequestError, naming the field at fault."""
    try:
        request = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is no valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise ApiError(400, "the body is nested too deeply; flatten it", code="invalid_json") from error
    _refuse_unsupported(request, "")
    if isinstance(request, ChatRequest):
        for i, message in enumerate(request.messages):
            _refuse_unsupported(message, f"messages[{i}].")
    if request.stream_options is not None and not request.stream:
        raise RequestError(
            "stream_options is given without stream; set stream to true or leave it out", "stream_options"
        )
    return request


def _invalid(message: str, kind: type[GenerationRequest]) -> ApiError:
    found = _PLACE.match(message)
    assert found is not None
    what, path = found["what"], found["path"] or ""
    if unknown := _UNKNOWN.match(what):
        name = _joined(path, unknown["name"])
        wanted = "leave it out" if path else meant(unknown["name"], kind.__struct_fields__) or "leave it out"
        return ApiError(400, f"unknown field {name[:80]!r}; {wanted}", param=name[:80], code="unknown_field")
    if missing := _MISSING.match(what):
        name = _joined(path, missing["name"])
        return ApiError(400, f"{name} is missing; it is required", param=name, code="missing_field")
    name = f"a key of {path}" if found["key"] else path or "the body"
    what = _TYPES.sub(lambda types: _in_words(types[1]), what)
    return ApiError(400, f"{name}: {what[:1].lower()}{what[1:]}", param=path or None, code="invalid_type")


def _in_words(types: str) -> str:
    """`int | str | null` -> a whole number or a string. null is taken everywhere, so that it tells nobody anything."""
    names = types.split(" | ")
    return " or ".join(_NOUNS.get(name, name) for name in names if name != "null" or names == ["null"])


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refuse_unsupported(holder: Checked, where: str) -> None:
    for name, values in holder.unsupported.items():
        value = getattr(holder, name)
        if value is not None and value not in values:
            worth = [_json(value) for value in values if value not in ([], "")]  # the others are as good as none
            choice = f", or send {' or '.join(worth)}" if worth else ""
            raise ApiError(
                400,
                f"{where}{name} is {_json(value):.80}, which is not supported; leave it out{choice}",
                param=where + name,
                code="unsupported",
            )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def prompts(request: CompletionRequest) -> list[str | list[int]]:
    """One entry per prompt. Raises RequestError for a list that mixes forms, or is empty."""
    asked = request.prompt
    if isinstance(asked, str):
        return [asked]
    if not asked:
        raise RequestError("prompt is []; expected a text, token ids, or a list of these", "prompt")
    ids = [p for p in asked if isinstance(p, int)]
    if len(ids) == len(asked):
        return [ids]
    texts = [p for p in asked if isinstance(p, str)]
    lists = [p for p in asked if isinstance(p, list)]
    if len(texts) == len(asked):
        return [*texts]
    if len(lists) == len(asked):
        return [*lists]
    raise RequestError("prompt mixes texts, token ids or lists of them; expected one of these forms", "prompt")
