"""Chat templates: Jinja from the checkpoint, run in the immutable sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NoReturn

from anychip.errors import ModelError, RequestError

ROLES = ("system", "user", "assistant", "developer", "tool")
MAX_RENDERED = 4 * 2**20


def no_template(model: str) -> RequestError:
    """For a conversation with a model that has none."""
    return RequestError(
        f"{model} has no chat template; give a plain prompt instead (/v1/completions, generate)", "messages"
    )


class ChatTemplate:
    """Raises ModelError for a template that is no Jinja."""

    def __init__(self, source: str) -> None:
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        from anychip.loading.generation_tag import GenerationTag

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationTag]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # of constants that are folded, and of nesting, Jinja raises what it likes
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"the chat template is no valid Jinja: {cause}; mend chat_template in the checkpoint"
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        special_tokens: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """special_tokens: their texts under the names that templates use, such as bos_token.

        Raises RequestError (field "messages") for messages of the wrong form and for what the template refuses."""
        checked = [_check(i, m) for i, m in enumerate(messages)]
        if not checked:
            raise RequestError("messages is empty; expected at least one message", "messages")
        pieces, size = [], 0
        try:
            for piece in self._template.generate(
                messages=checked,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **special_tokens,
            ):
                size += len(piece)
                if size > MAX_RENDERED:
                    raise RequestError(
                        f"the rendered messages exceed {MAX_RENDERED} characters; send fewer", "messages"
                    )
                pieces.append(piece)
        except RequestError:
            raise
        except Exception as error:  # whatever a template of the checkpoint's can raise, sandbox refusals included
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise RequestError(f"the model's chat template refuses the messages: {cause}", "messages") from error
        return "".join(pieces)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As checkpoints expect, with Transformers' arguments: plain JSON without HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _check(index: int, message: Mapping[str, Any]) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, Mapping) else message
        raise RequestError(f"{where} has role {role!r}; expected one of {', '.join(ROLES)}", "messages")
    said = {key: value for key, value in message.items() if value is not None}  # templates ask whether a key is there
    return {**said, "content": _text(where, message)}


def _text(where: str, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [p.get("text") if isinstance(p, Mapping) and p.get("type") == "text" else None for p in content]
        if all(isinstance(p, str) for p in parts):
            return "".join(p for p in parts if p is not None)
    raise RequestError(f"{where} has content {content!r:.60}; expected text or a list of text parts", "messages")
