"""The whole product as its users meet it: the command, the demo model, OpenAI's own client."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from processes import server

KEY = "test-key"
COMMAND = ("-m", "anychip", "serve", "--model", "demo", "--device", "numpy", "--port", "0", "--api-key", KEY)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server(*COMMAND) as (process, url):
        yield url
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0


@pytest.fixture(scope="module")
def api(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120) as api:
        yield api


@pytest.fixture(scope="module")
def model(api: openai.OpenAI) -> str:
    [listed] = api.models.list().data
    assert api.models.retrieve(listed.id).id == listed.id
    return listed.id


def metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def wait_for(url: str, name: str, value: float) -> None:
    """Each look is a request of its own, so it takes the time that it takes."""
    deadline = time.monotonic() + 60
    while (seen := metric(url, name)) != value:
        assert time.monotonic() < deadline, f"{name} is {seen}; expected {value}"


def test_completion(api: openai.OpenAI, model: str) -> None:
    answer = api.completions.create(model=model, prompt="Return the", max_tokens=8, temperature=0)
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_completion_is_the_whole_one(api: openai.OpenAI, model: str) -> None:
    whole = api.completions.create(model=model, prompt="Return the", max_tokens=12, temperature=0)
    chunks = list(
        api.completions.create(
            model=model,
            prompt="Return the",
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_several_prompts_and_choices(api: openai.OpenAI, model: str) -> None:
    prompts = ["Return the", "Create a"]
    answer = api.completions.create(model=model, prompt=prompts, n=2, max_tokens=6, seed=7, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    starts = [prompts[0], prompts[0], prompts[1], prompts[1]]
    assert all(c.text.startswith(start) for c, start in zip(answer.choices, starts, strict=True))
    again = api.completions.create(model=model, prompt=prompts, n=2, max_tokens=6, seed=7, echo=True)
    assert [c.text for c in again.choices] == [c.text for c in answer.choices]


def test_streamed_choices_are_the_whole_ones(api: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": "Return the"}]
    whole = api.chat.completions.create(model=model, messages=messages, n=2, max_tokens=10, seed=3)  # type: ignore[arg-type]
    texts, ends = {0: "", 1: ""}, []
    stream = api.chat.completions.create(
        model=model,
        messages=messages,  # type: ignore[arg-type]
        n=2,
        max_tokens=10,
        seed=3,
        stream=True,
    )
    for chunk in stream:
        choice = chunk.choices[0]
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends.append(choice.index)
    assert texts == {c.index: c.message.content for c in whole.choices}
    assert sorted(ends) == [0, 1]  # each ends once


def test_logprobs_of_completions(api: openai.OpenAI, model: str) -> None:
    answer = api.completions.create(
        model=model, prompt="Return the", max_tokens=4, temperature=0, logprobs=3, echo=True
    )
    choice = answer.choices[0]
    logprobs = choice.logprobs
    assert logprobs is not None
    assert answer.usage is not None
    assert logprobs.tokens is not None
    assert len(logprobs.tokens) == answer.usage.total_tokens
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert logprobs.top_logprobs is not None
    assert all(3 <= len(top) <= 4 for top in logprobs.top_logprobs[1:])
    assert logprobs.text_offset is not None
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert choice.text[offset:].startswith(token) or token.startswith("<|")


def test_logprobs_of_chat(api: openai.OpenAI, model: str) -> None:
    answer = api.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Return the"}],
        max_tokens=4,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert answer.usage is not None
    assert len(logprobs.content) == answer.usage.completion_tokens
    first = logprobs.content[0]
    assert first.logprob <= 0
    assert bytes(first.bytes or []).decode() == first.token
    assert len(first.top_logprobs) == 2
    assert first.top_logprobs[0].logprob >= first.top_logprobs[1].logprob


def test_stop_string(api: openai.OpenAI, model: str) -> None:
    whole = api.completions.create(model=model, prompt="Return the", max_tokens=16, temperature=0).choices[0].text
    stop = whole[3:6]
    cut = api.completions.create(model=model, prompt="Return the", max_tokens=16, temperature=0, stop=stop)
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_errors(api: openai.OpenAI, model: str, url: str) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        api.completions.create(model=model, prompt="a", temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        api.completions.create(model=model, prompt=[5] * 100_000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as id:
        api.completions.create(model=model, prompt=[10**9], stream=True)
    assert id.value.param == "prompt"
    with pytest.raises(openai.NotFoundError) as unknown:
        api.completions.create(model="gpt", prompt="a")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        api.with_options(api_key="wrong").models.list()
    assert httpx.get(f"{url}/health").status_code == 200


def test_leaving_a_stream_frees_its_pages(api: openai.OpenAI, model: str, url: str) -> None:
    wait_for(url, "anychip_requests_running", 0)
    aborted = metric(url, 'anychip_requests_finished_total{finish_reason="abort"}')
    stream = api.completions.create(
        model=model, prompt="Return the", max_tokens=900, stream=True, n=2, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert metric(url, "anychip_requests_running") == 2
    assert metric(url, "anychip_kv_cache_usage_ratio") > 0
    stream.close()
    wait_for(url, "anychip_requests_running", 0)
    wait_for(url, "anychip_kv_cache_usage_ratio", 0)
    assert metric(url, "anychip_requests_waiting") == 0
    assert metric(url, 'anychip_requests_finished_total{finish_reason="abort"}') == aborted + 2
    assert api.completions.create(model=model, prompt="Return the", max_tokens=2).choices[0].text is not None
