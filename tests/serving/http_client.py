"""Talking to an application in the process."""

from __future__ import annotations

import json
from typing import Any

from anychip.serving.app import create_app
from fake_engine import FakeEngine
from starlette.testclient import TestClient

Json = dict[str, Any]


def client(engine: FakeEngine | None = None, **options: Any) -> TestClient:
    return TestClient(create_app(engine or FakeEngine(), **options))


def complete(engine: FakeEngine | None = None, **body: Any) -> Json:
    response = client(engine).post("/v1/completions", json={"model": "fake", "prompt": "Say hi", **body})
    assert response.status_code == 200, response.text
    return response.json()


def chat(engine: FakeEngine | None = None, **body: Any) -> Json:
    response = client(engine).post("/v1/chat/completions", json=chat_body(**body))
    assert response.status_code == 200, response.text
    return response.json()


def chat_body(**body: Any) -> Json:
    return {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], **body}


def refused(path: str, body: Any, engine: FakeEngine | None = None, **options: Any) -> tuple[int, Json]:
    """(status, error) of a request that must not succeed."""
    response = client(engine, **options).post(path, json=body)
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return response.status_code, error


def events(text: str) -> list[Json]:
    """The chunks of a whole event stream, whose form is checked."""
    *lines, last, rest = text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def stream(path: str, body: Json, engine: FakeEngine | None = None) -> list[Json]:
    response = client(engine).post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events(response.text)
