from __future__ import annotations

import json
from typing import Any

import pytest
from anychip.errors import AnychipError, EngineDeadError
from anychip.serving.app import create_app
from fake_engine import FakeEngine
from http_client import chat_body, client, refused

PATH = "/v1/completions"
PROMPT: dict[str, Any] = {"model": "fake", "prompt": "a"}


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"temperature": -1}, "temperature", "0 to 100"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"n": 0}, "n", "1 to 128"),
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"max_tokens": 10**30}, "max_tokens", "max_tokens"),
        ({"logprobs": 21}, "logprobs", "20"),
        ({"stop": [""]}, "stop", "1 to 1,024"),
        ({"stop": ["a"] * 17}, "stop", "16"),
        ({"n": "two"}, "n", "n: expected a whole number, got a string"),
        ({"n": True}, "n", "got a boolean"),
        ({"stream": 1}, "stream", "stream: expected a boolean, got a whole number"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "a key of logit_bias: expected a whole number, got a string"),
        ({"logit_bias": {"5": "x"}}, "logit_bias[...]", "logit_bias[...]: expected a number, got a string"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "100"),
        ({"prompt": None}, "prompt", "prompt: expected a string or a list, got null"),
        ({"prompt": []}, "prompt", "expected a text"),
        ({"prompt": ["a", 1]}, "prompt", "mixes"),
        ({"prompt": [[1], "a"]}, "prompt", "mixes"),
        ({"prompt": [[1, "a"]]}, "prompt[0][1]", "got a string"),
        ({"prompt": [[]]}, "prompt", "empty"),
        ({"prompt": [1, -1], "echo": True}, "prompt[1]", ">= 0"),
        ({"prompt": [[2**31]], "echo": True}, "prompt[0][0]", "<= 2147483647"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]", ">= 0"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "without stream"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
        ({"beam_width": 4}, "beam_width", "unknown field 'beam_width'"),
        ({"prompt_logprobs": 1}, "prompt_logprobs", "unknown field"),
        ({"temprature": 1}, "temprature", "unknown field 'temprature'; did you mean temperature?"),
        ({"prompt": ""}, "prompt", "the prompt is empty; expected at least one character"),
        ({"prompt": ["a", ""]}, "prompt", "the prompt is empty"),
        ({"n": 128, "prompt": ["a"] * 100}, "n", "12800"),
    ],
)
def test_bad_fields_are_named(change: dict[str, Any], param: str, said: str) -> None:
    engine = FakeEngine()
    status, error = refused(PATH, {**PROMPT, **change}, engine)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert said in error["message"]
    assert engine.calls == []


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_missing_fields_are_named(missing: str) -> None:
    status, error = refused(PATH, {name: value for name, value in PROMPT.items() if name != missing})
    assert (status, error["param"], error["code"]) == (400, missing, "missing_field")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b"[]", b'"text"', b"null", b'{"model": "\xff"}', b'{"model": "\\ud800", "prompt": "a"}',
        b'{"model": "fake", "temperature": NaN}', b'{"model": "fake", "temperature": 1e999}',
        b'{"model":' + b"[" * 100_000, b'{"suffix":' + b"[" * 100_000,
        b'{"model": "fake", "n": ' + b"9" * 100_000 + b"}",
        b'{"model": "fake", "prompt": [' + b"9" * 100_000 + b"]}", b'{"' + b"x" * 100_000 + b'": 1}',
        b'{"model": "fake", "suffix": ' + b"9" * 10_000 + b', "prompt": "a"}',
    ],
)  # fmt: skip
def test_bodies_that_are_no_request(body: bytes) -> None:
    with client() as http:
        response = http.post(PATH, content=body)
        assert response.status_code == 400
        assert len(response.json()["error"]["message"]) < 300
        assert http.post(PATH, json=PROMPT).status_code == 200


def test_unknown_model() -> None:
    for path, body in ((PATH, {**PROMPT, "model": "gpt"}), ("/v1/chat/completions", chat_body(model="gpt"))):
        status, error = refused(path, body)
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "'gpt'" in error["message"]
        assert "'fake'" in error["message"]


def test_prompt_longer_than_the_context() -> None:
    for path, body, param in (
        (PATH, {"model": "fake", "prompt": "a" * 63}, "prompt"),  # and <s>
        (PATH, {"model": "fake", "prompt": ["a", "a" * 63]}, "prompt"),
        (PATH, {"model": "fake", "prompt": "a" * 63, "stream": True}, "prompt"),
        ("/v1/chat/completions", chat_body(messages=[{"role": "user", "content": "a" * 64}]), "messages"),
    ):
        status, error = refused(path, body)
        assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", param)
        assert "63 tokens" in error["message"]
    assert client().post(PATH, json={"model": "fake", "prompt": "a" * 62}).status_code == 200


def test_the_engines_refusal_of_one_prompt_refuses_all_before_a_stream_begins() -> None:
    for stream in (False, True):
        engine = FakeEngine()
        status, error = refused(PATH, {"model": "fake", "prompt": [[1], [], [2]], "stream": stream}, engine)
        assert (status, error["param"]) == (400, "prompt")
        assert engine.running == 0


def test_unknown_routes_and_methods() -> None:
    with client() as http:
        response = http.get("/v2/nothing")
        assert (response.status_code, response.json()["error"]["type"]) == (404, "invalid_request_error")
        response = http.get(PATH)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        assert "use POST" in response.json()["error"]["message"]


def test_large_bodies_are_refused_declared_or_not() -> None:
    with client(max_body=100) as http:
        for content in (b" " * 101, iter([b" " * 60, b" " * 60])):
            response = http.post(PATH, content=content)
            assert response.status_code == 413
            assert "100 bytes" in response.json()["error"]["message"]
        assert http.post(PATH, json=PROMPT).status_code == 200


def test_an_unforeseen_fault_tells_the_client_nothing_and_the_log_all(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(raises=KeyError("secret"))
    for stream in (False, True):
        status, error = refused(PATH, {**PROMPT, "stream": stream}, engine)
        assert (status, error["type"]) == (500, "server_error")
        assert "secret" not in json.dumps(error)
    assert "secret" in caplog.text


def test_a_failed_generation_is_a_500_with_the_engines_words() -> None:
    engine = FakeEngine(fail_after=1)
    status, error = refused(PATH, {**PROMPT, "n": 1}, engine)
    assert (status, error["code"], error["message"]) == (500, "generation_failed", "the device failed: boom")
    assert engine.running == 0


@pytest.mark.parametrize("fault", [{"fail_after": 2}, {"dies_after": 2}])
def test_an_error_inside_a_stream_is_its_last_event(fault: dict[str, Any]) -> None:
    engine = FakeEngine(**fault)
    response = client(engine).post("/v1/chat/completions", json=chat_body(stream=True))
    assert response.status_code == 200
    *before, last, rest = response.text.split("\n\n")
    assert "boom" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert len(before) == 3  # role and two letters
    assert rest == ""


def test_a_dead_engine_is_unavailable() -> None:
    engine = FakeEngine(raises=EngineDeadError("the engine stopped: boom; start it again"))
    status, error = refused(PATH, PROMPT, engine)
    assert (status, error["code"]) == (503, "engine_dead")
    engine.alive = False
    with client(engine) as http:
        assert http.get("/health").status_code == 503
        assert http.post(PATH, json=PROMPT).status_code == 503
        assert http.get("/v1/models").status_code == 200


def test_too_many_requests_at_once() -> None:
    with client(max_completions=3) as http:
        assert http.post(PATH, json={**PROMPT, "n": 4}).status_code == 400
        for _ in range(3):  # what has ended counts no more
            assert http.post(PATH, json={**PROMPT, "n": 3}).status_code == 200


def test_health_and_models() -> None:
    with client() as http:
        assert http.get("/health").json() == {"status": "ok"}
        listed = http.get("/v1/models").json()
        assert listed["object"] == "list"
        assert [m["id"] for m in listed["data"]] == ["fake"]
        assert http.get("/v1/models/fake").json() == listed["data"][0]
        assert listed["data"][0]["max_model_len"] == 64
        assert http.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_api_key() -> None:
    with client(api_key="s3cret-é") as http:
        right = "Bearer s3cret-é".encode()
        for given in (None, b"Bearer wrong", b"Bearer", b"Basic s3cret", right + b"x", "s3cret-é".encode()):
            headers = {} if given is None else {"Authorization": given}
            response = http.get("/v1/models", headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
        assert http.get("/v1/models", headers={"Authorization": right}).status_code == 200
        assert http.get("/metrics").status_code == 401
        assert http.get("/nowhere").status_code == 401
        assert http.get("/health").status_code == 200


def test_an_api_key_may_end_in_any_letter() -> None:
    """The last byte of some, read as Latin-1, is white space."""
    with client(api_key="voilà") as http:
        for given in ("Bearer voilà", "Bearer  voilà "):
            assert http.get("/v1/models", headers={"Authorization": given.encode()}).status_code == 200
    with pytest.raises(AnychipError, match="begins or ends with white space"):
        create_app(FakeEngine(), api_key="abc\n")


def test_an_empty_api_key_is_a_mistake() -> None:
    with pytest.raises(AnychipError, match="the API key is empty"):
        create_app(FakeEngine(), api_key="")
