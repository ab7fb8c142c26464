from __future__ import annotations

from typing import Any

import pytest
from fake_engine import FakeEngine
from http_client import chat, chat_body, complete, refused, stream

PATH = "/v1/chat/completions"


def test_whole_answer_has_openais_form() -> None:
    engine = FakeEngine()
    body = chat(engine)
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["completion_tokens"] == 7
    assert engine.tokenizer.decode(engine.calls[0]["prompt"], False) == "<user>Hi<assistant>"  # no <s> added


def test_an_answer_may_fill_the_context_unless_limited() -> None:
    for asked, expected in (({}, None), ({"max_tokens": 3}, 3), ({"max_completion_tokens": 4}, 4)):
        engine = FakeEngine()
        chat(engine, **asked)
        assert engine.calls[0]["params"].max_tokens == expected


def test_two_limits_must_agree() -> None:
    chat(max_tokens=3, max_completion_tokens=3)
    status, error = refused(PATH, chat_body(max_tokens=3, max_completion_tokens=4))
    assert (status, error["param"]) == (400, "max_tokens")


def test_text_parts_are_joined() -> None:
    engine = FakeEngine()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat(engine, messages=[{"role": "system", "content": "s"}, {"role": "user", "content": parts}])
    assert engine.tokenizer.decode(engine.calls[0]["prompt"], False) == "<system>s<user>ab<assistant>"


def test_an_answer_can_be_sent_back() -> None:
    message = chat()["choices"][0]["message"]
    chat(messages=[{"role": "user", "content": "Hi"}, message, {"role": "user", "content": "again"}])


def test_logprobs() -> None:
    content = chat(FakeEngine("H!é"), logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": "H",
        "logprob": -0.5,
        "bytes": [72],
        "top_logprobs": [
            {"token": "H", "logprob": -0.5, "bytes": [72]},
            {"token": "I", "logprob": -1.5, "bytes": [73]},
        ],
    }
    assert content[1]["logprob"] == -9999.0
    assert content[2]["bytes"] is None  # half a character
    assert len(content) == 5


def test_logprobs_without_alternatives() -> None:
    content = chat(logprobs=True)["choices"][0]["logprobs"]["content"]
    assert content[0]["top_logprobs"] == []


def test_stream_goes_role_content_finish_usage() -> None:
    chunks = stream(PATH, chat_body(stream_options={"include_usage": True}, max_tokens=2))
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    *choices, last = [chunk["choices"] for chunk in chunks]
    assert [c[0]["delta"] for c in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "H"},
        {"content": "e"},
        {},
    ]
    assert [c[0]["finish_reason"] for c in choices] == [None, None, None, "length"]
    assert last == []
    assert chunks[-1]["usage"]["total_tokens"] == chunks[-1]["usage"]["prompt_tokens"] + 2


def test_streamed_choices_are_interleaved_and_complete() -> None:
    chunks = stream(PATH, chat_body(n=3, logprobs=True))
    for index in range(3):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in mine) == "Hello!"
        assert mine[-1]["finish_reason"] == "stop"
        tokens = [t["token"] for c in mine if c["logprobs"] for t in c["logprobs"]["content"]]
        assert tokens == [*"Hello!", "</s>"]


def test_a_model_without_template_points_to_completions() -> None:
    status, error = refused(PATH, chat_body(), FakeEngine(template=None))
    assert (status, error["param"]) == (400, "messages")
    assert "no chat template" in error["message"]
    assert "/v1/completions" in error["message"]
    assert complete(FakeEngine(template=None))["choices"]


def test_what_the_template_refuses_is_a_400() -> None:
    status, error = refused(PATH, chat_body(), FakeEngine(template="{{ raise_exception('no users here') }}"))
    assert (status, error["param"]) == (400, "messages")
    assert "no users here" in error["message"]


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "emperor", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": [{"type": "image"}]}]],
)
def test_bad_messages(messages: list[Any]) -> None:
    status, error = refused(PATH, chat_body(messages=messages))
    assert (status, error["param"]) == (400, "messages")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("reasoning_effort", "high"),
        ("store", True),
        ("service_tier", "flex"),
        ("prediction", {"type": "content", "content": "x"}),
    ],
)
def test_features_that_are_not_there_are_refused(field: str, value: Any) -> None:
    status, error = refused(PATH, chat_body(**{field: value}))
    assert (status, error["param"], error["code"]) == (400, field, "unsupported")
    assert field in error["message"]


def test_tool_calls_in_the_history_are_refused() -> None:
    messages = [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]}]
    status, error = refused(PATH, chat_body(messages=messages))
    assert (status, error["param"]) == (400, "messages[0].tool_calls")


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    chat(
        tools=[], tool_choice="none", functions=[], response_format={"type": "text"}, modalities=["text"], store=False,
        metadata={"a": "b"}, user="me", service_tier="auto", parallel_tool_calls=True, safety_identifier="x",
    )  # fmt: skip


@pytest.mark.parametrize(("asked", "param"), [({"top_logprobs": 2}, "top_logprobs"), ({"logprobs": 3}, "logprobs")])
def test_logprobs_are_asked_for_by_two_fields(asked: dict[str, Any], param: str) -> None:
    status, error = refused(PATH, chat_body(**asked))
    assert (status, error["param"]) == (400, param)


def test_too_many_top_logprobs() -> None:
    status, error = refused(PATH, chat_body(logprobs=True, top_logprobs=21))
    assert (status, error["param"]) == (400, "top_logprobs")
    assert "20" in error["message"]


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [
        ("tools", [{"type": "function"}], ""),
        ("tool_choice", "required", ', or send "none" or "auto"'),
        ("verbosity", "low", ""),
        ("response_format", {"type": "json_object"}, ', or send {"type":"text"}'),
    ],
)
def test_a_refusal_names_what_would_do(field: str, value: object, instead: str) -> None:
    message = refused("/v1/chat/completions", chat_body(**{field: value}))[1]["message"]
    assert message.endswith(f", which is not supported; leave it out{instead}")
