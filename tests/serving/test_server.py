from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
from anychip.errors import AnychipError
from anychip.serving.app import MAX_BODY
from anychip.serving.server import serve
from fake_engine import FakeEngine
from processes import server

FAKE_SERVER = str(Path(__file__).parent / "fake_server.py")


def never() -> FakeEngine:
    raise AssertionError("the engine was made before the port was known to be free")


def test_a_port_in_use_is_said_in_one_line_before_the_engine_is_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AnychipError) as raised:
            serve(never, port=port)
    assert str(raised.value) == f"port {port} on 127.0.0.1 is in use; choose another with --port"


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("127.0.0.1", 65536, "port 65536 does not exist"),
        ("127.0.0.1", -1, "port -1 does not exist"),
        ("no host", 0, "host 'no host' is unknown"),
        ("x" * 70, 0, "is unknown"),
        ("192.0.2.1", 0, "cannot listen on port 0 of 192.0.2.1"),
    ],
)
def test_addresses_that_cannot_be_listened_on(host: str, port: int, said: str) -> None:
    with pytest.raises(AnychipError, match=said) as raised:
        serve(never, host, port)
    assert "\n" not in str(raised.value)


def test_the_engine_is_closed_when_the_application_cannot_be_made() -> None:
    engine = FakeEngine()
    with pytest.raises(AnychipError, match="API key is empty"):
        serve(lambda: engine, port=0, api_key="")
    assert engine.closed


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(sign: signal.Signals) -> None:
    with server(FAKE_SERVER) as (process, url):
        body = {"model": "fake", "prompt": "a"}
        assert httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]["text"] == "Hello!"
        process.send_signal(sign)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "closed: True, cancelled: 0\n", "")


def test_a_client_that_sends_too_much_reads_why() -> None:
    with (
        server(FAKE_SERVER) as (_, url),
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client,
    ):
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % (2 * MAX_BODY))
        client.sendall(bytes(2 * MAX_BODY))
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer


def test_a_client_that_leaves_a_real_connection_cancels_its_request() -> None:
    body = {"model": "fake", "prompt": "a", "stream": True}
    with server(FAKE_SERVER, "2") as (process, url):
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as response:
            assert next(response.iter_lines()).startswith("data: ")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/completions", json={**body, "stream": False}, timeout=0.5)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "closed: True, cancelled: 2\n", "")


def test_a_second_interrupt_does_not_wait_for_requests_under_way() -> None:
    body = {"model": "fake", "prompt": "a", "stream": True}
    with (
        server(FAKE_SERVER, "2") as (process, url),
        httpx.stream("POST", f"{url}/v1/completions", json=body) as response,
    ):
        assert next(response.iter_lines()).startswith("data: ")
        process.send_signal(signal.SIGINT)
        wait_until_refused(url)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "closed: True, cancelled: 1\n")
    assert not any(word in err for word in ("Traceback", "timeout graceful shutdown exceeded"))


def wait_until_refused(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/health")
        except httpx.TransportError:
            return
    raise AssertionError("the server still answers a minute after it was told to stop")
