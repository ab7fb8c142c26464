from __future__ import annotations

from dataclasses import replace

from anychip.outputs import CompletionOutput, RequestOutput
from anychip.sampling_params import SamplingParams
from fake_engine import BOS, FakeEngine
from http_client import client, complete, refused, stream


def test_whole_answer_has_openais_form() -> None:
    body = complete(max_tokens=20)
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["model"] == "fake"
    assert isinstance(body["created"], int)
    assert body["choices"] == [{"index": 0, "text": "Hello!", "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {
        "prompt_tokens": 7,  # <s> and six letters
        "completion_tokens": 7,  # six letters and </s>
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_max_tokens_ends_with_length() -> None:
    choice = complete(max_tokens=2)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("He", "length")


def test_all_forms_of_prompt_reach_the_engine() -> None:
    for prompt, expected in (
        ("ab", [[BOS, 64, 65]]),
        (["a", "b"], [[BOS, 64], [BOS, 65]]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ):
        engine = FakeEngine()
        body = complete(engine, prompt=prompt)
        assert [call["prompt"] for call in engine.calls] == expected
        assert [choice["index"] for choice in body["choices"]] == list(range(len(expected)))
        assert body["usage"]["prompt_tokens"] == sum(map(len, expected))


def test_choices_are_numbered_prompt_by_prompt() -> None:
    body = complete(prompt=["a", "b"], n=2, echo=True)
    texts = [(c["index"], c["text"]) for c in body["choices"]]
    assert texts == [(0, "aHello!"), (1, "aHello!"), (2, "bHello!"), (3, "bHello!")]
    assert body["usage"]["completion_tokens"] == 4 * 7


def test_sampling_fields_reach_the_engine_over_the_models_defaults() -> None:
    engine = FakeEngine(defaults={"temperature": 0.3, "top_k": 7})
    asked = {
        "top_p": 0.5, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.5, "presence_penalty": 0.25,
        "frequency_penalty": -0.5, "seed": 11, "max_tokens": 9, "min_tokens": 2, "ignore_eos": True,
        "skip_special_tokens": False, "include_stop_str_in_output": True,
    }  # fmt: skip
    complete(
        engine, **asked, stop=["x", "y"], stop_token_ids=[4], logit_bias={"3": -2.5}, priority=-3, cache_salt="mine",
        user="me",
    )  # fmt: skip
    call = engine.calls[0]
    params = call["params"]
    assert {name: getattr(params, name) for name in asked} == asked
    assert (params.temperature, params.stop, params.stop_token_ids) == (0.3, ("x", "y"), (4,))
    assert params.logit_bias == {3: -2.5}
    assert (call["priority"], call["salt"]) == (-3, "mine")


def test_null_means_the_default() -> None:
    engine = FakeEngine()
    complete(engine, temperature=None, max_tokens=None, stop=None, n=None, stream=None, suffix=None, best_of=None)
    assert engine.calls[0]["params"].max_tokens == 16


def test_logprobs() -> None:
    logprobs = complete(FakeEngine("Hi!"), logprobs=2)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["H", "i", "!", "</s>"]
    assert logprobs["token_logprobs"] == [-0.5, -0.5, -9999.0, -0.5]
    assert logprobs["text_offset"] == [0, 1, 2, 3]
    assert logprobs["top_logprobs"][0] == {"H": -0.5, "I": -1.5}


def test_zero_logprobs_name_the_chosen_token_alone() -> None:
    logprobs = complete(FakeEngine("Hi"), logprobs=0)["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"][0] == {"H": -0.5}


def test_echo_with_logprobs_covers_the_prompt() -> None:
    body = complete(FakeEngine("Hi"), prompt="ab", echo=True, logprobs=1)
    choice = body["choices"][0]
    assert choice["text"] == "abHi"
    assert choice["logprobs"]["tokens"] == ["<s>", "a", "b", "H", "i", "</s>"]
    assert choice["logprobs"]["token_logprobs"][:2] == [None, -0.5]
    assert choice["logprobs"]["top_logprobs"][:2] == [None, {"a": -0.5}]
    assert choice["logprobs"]["text_offset"] == [0, 0, 1, 2, 3, 4]


def test_an_echoed_prompt_is_written_once_for_all_its_choices() -> None:
    """At a hundred choices of a long prompt, writing it for each would hold every other client up for seconds."""

    def decodes(prompt: str, n: int) -> int:
        engine, calls = FakeEngine("Hi"), []
        decode = engine.tokenizer.decode
        engine.tokenizer.decode = lambda *given, **named: calls.append(1) or decode(*given, **named)
        body = complete(engine, prompt=prompt, n=n, echo=True, logprobs=2)
        assert all(choice["logprobs"] == body["choices"][0]["logprobs"] for choice in body["choices"])
        return len(calls)

    assert decodes("ab" * 20, 4) - decodes("ab", 4) == decodes("ab" * 20, 1) - decodes("ab", 1) > 0


def test_echo_of_token_ids_is_their_text() -> None:
    assert complete(FakeEngine("Hi"), prompt=[BOS, 64, 65], echo=True)["choices"][0]["text"] == "abHi"


def test_offsets_of_half_characters_stay_put() -> None:
    logprobs = complete(FakeEngine("é!"), logprobs=0)["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [0, 0, 1, 2]


def test_stream_is_the_whole_answer_in_pieces() -> None:
    body = {"model": "fake", "prompt": "ab", "echo": True, "logprobs": 1}
    chunks = stream("/v1/completions", body)
    whole = complete(**body)["choices"][0]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(c["text"] for c in choices) == whole["text"]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [entry for c in choices for entry in c["logprobs"][name]] == whole["logprobs"][name]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "text_completion" and "usage" not in chunk for chunk in chunks)


def test_stream_ends_with_usage_when_asked() -> None:
    body = {"model": "fake", "prompt": ["a", "b"], "n": 2, "stream_options": {"include_usage": True}}
    *chunks, last = stream("/v1/completions", body)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (4, 28)
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    for index in range(4):
        assert "".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == index) == "Hello!"


def test_streamed_choices_are_interleaved() -> None:
    chunks = stream("/v1/completions", {"model": "fake", "prompt": "a", "n": 2})
    assert [c["choices"][0]["index"] for c in chunks[:4]] == [0, 1, 0, 1]


def test_a_choice_ends_once_however_often_the_engine_says_so() -> None:
    class Repeating(FakeEngine):
        def _outputs(self, id: str, prompt: list[int], params: SamplingParams) -> list[RequestOutput]:
            *first, last = super()._outputs(id, prompt, params)
            again = [CompletionOutput(o.index, finish_reason=o.finish_reason) for o in last.outputs]
            return [*first, replace(last, finished=False), replace(last, outputs=again)]

    body = {"model": "fake", "prompt": "a", "n": 2}
    chunks = stream("/v1/completions", body, Repeating())
    ends = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert ends == [0, 1]
    assert complete(Repeating(), **body)["usage"]["completion_tokens"] == 14


def test_best_of_is_n_or_nothing() -> None:
    assert len(complete(n=2, best_of=2)["choices"]) == 2
    status, error = refused("/v1/completions", {"model": "fake", "prompt": "a", "n": 2, "best_of": 3})
    assert (status, error["param"]) == (400, "best_of")


def test_suffix_is_not_supported() -> None:
    assert complete(suffix="")["choices"]
    status, error = refused("/v1/completions", {"model": "fake", "prompt": "a", "suffix": "b"})
    assert (status, error["param"], error["code"]) == (400, "suffix", "unsupported")


def test_served_name_replaces_the_engines() -> None:
    with client(model_name="org/mine") as http:
        assert http.post("/v1/completions", json={"model": "org/mine", "prompt": "a"}).json()["model"] == "org/mine"
        assert http.post("/v1/completions", json={"model": "fake", "prompt": "a"}).status_code == 404
        assert http.get("/v1/models/org/mine").json()["id"] == "org/mine"
