"""Bad requests: each is refused by name before it runs, and takes no other with it."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
from typing import Any

import checkpoints
import numpy as np
import pytest
from anychip import LLM, AsyncEngine, RequestError, SamplingParams
from anychip.errors import EngineDeadError

GREEDY = {"temperature": 0, "max_tokens": 6, "detokenize": False}
GOOD = checkpoints.prompts(3, (5, 16, 17))
VOCAB = checkpoints.VOCAB
INT = 2**31 - 1
NAN, INF = float("nan"), float("inf")

BAD_FIELDS: dict[str, tuple[list[object], str]] = {
    "n": ([0, 129, 1.5, True, "2", None], "a whole number from 1 to 128"),
    "temperature": ([-0.1, 100.1, NAN, INF, "1", None, True, 10**400], "a number from 0 to 100"),
    "top_p": ([-0.1, 1.01, NAN, "1", None], "a number from 0 to 1"),
    "top_k": ([-2, 1.5, 2**31, None], f"a whole number from -1 to {INT}"),
    "min_p": ([-0.1, 1.1, NAN, None], "a number from 0 to 1"),
    "repetition_penalty": ([-1, 10.5, INF, None], "a number from 0 to 10"),
    "presence_penalty": ([-2.1, 2.1, NAN, None], "a number from -2 to 2"),
    "frequency_penalty": ([-2.1, 2.1, NAN, None], "a number from -2 to 2"),
    "logit_bias": ([[1], "1", dict.fromkeys(range(1025), 0)], "a map of at most 1,024 token ids to numbers"),
    "seed": ([-1, 2**63, 1.0, "1"], f"a whole number from 0 to {2**63 - 1}"),
    "max_tokens": ([0, -1, 2**31, 1.5, True], f"a whole number from 1 to {INT}"),
    "min_tokens": ([-1, 2**31, 1.5, None], f"a whole number from 0 to {INT}"),
    "stop": ([["a"] * 17, 7, None], "a string or at most 16 strings"),
    "stop_token_ids": ([[1] * 1025, "1", 7, None], "a list of at most 1,024 token ids"),
    "ignore_eos": ([1, None, "yes"], "true or false"),
    "logprobs": ([-1, 21, 1.5, True], "a whole number from 0 to 20"),
    "prompt_logprobs": ([-1, 21, 1.5], "a whole number from 0 to 20"),
    "skip_special_tokens": ([0], "true or false"),
    "include_stop_str_in_output": ([0], "true or false"),
    "detokenize": ([0], "true or false"),
}
MORE: list[tuple[str, dict[str, object], str]] = [
    ("top_p", {"top_p": 0}, "top_p is 0; expected a number greater than 0 and at most 1"),
    ("repetition_penalty", {"repetition_penalty": 0}, "expected a number greater than 0 and at most 10"),
    ("logit_bias", {"logit_bias": {-1: 0}}, "logit_bias is -1; expected a whole number"),
    ("logit_bias", {"logit_bias": {1: 101}}, "logit_bias is 101; expected a number from -100 to 100"),
    ("logit_bias", {"logit_bias": {1: NAN}}, "logit_bias is nan; expected a number from -100 to 100"),
    ("temperature", {"temperature": -(10**5000)}, "temperature is a number of thousands of digits; expected a number"),
    ("logit_bias", {"logit_bias": {1: 10**400}}, "expected a number from -100 to 100"),
    ("stop", {"stop": [""]}, "stop is ''; expected strings of 1 to 1,024 characters"),
    ("stop", {"stop": ["x" * 1025]}, "expected strings of 1 to 1,024 characters"),
    ("stop", {"stop": "x", "detokenize": False}, "stop is ['x']; expected empty when detokenize is false"),
    ("stop_token_ids", {"stop_token_ids": [-1]}, "stop_token_ids is -1; expected a whole number"),
    ("min_tokens", {"min_tokens": 17}, "min_tokens is 17; expected at most max_tokens, which is 16"),
]


def test_every_field_is_tried():
    assert set(BAD_FIELDS) == {field.name for field in dataclasses.fields(SamplingParams)}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_field_out_of_range_is_named_with_its_value_and_range(field):
    values, expected = BAD_FIELDS[field]
    for value in values:
        with pytest.raises(RequestError) as caught:
            SamplingParams(**{field: value})
        assert caught.value.field == field
        assert str(caught.value).startswith(f"{field} is {value!r}"[:80])
        assert str(caught.value).endswith(f"; expected {expected}")


@pytest.mark.parametrize(("field", "fields", "said"), MORE)
def test_fields_that_are_wrong_within_or_together(field, fields, said):
    with pytest.raises(RequestError) as caught:
        SamplingParams(**fields)
    assert caught.value.field == field
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SamplingParams(temprature=1), "unknown sampling parameter 'temprature'; did you mean temperature?"),
        (lambda: SamplingParams(beams=4), "unknown sampling parameter 'beams'; known: detokenize, frequency_penalty, "),
        (lambda: LLM("./nowhere", quantise="int8"), "unknown option 'quantise'; did you mean quantize?"),
        (lambda: AsyncEngine("./nowhere", num_seqs=4), "unknown option 'num_seqs'; did you mean max_num_seqs?"),
        (lambda: LLM("./nowhere", tensor_parallel_size=2), "unknown option 'tensor_parallel_size'; known: device, "),
    ],
)
def test_a_name_that_is_none_is_told_with_the_one_that_was_meant(make, said):
    with pytest.raises(RequestError) as caught:
        make()
    assert str(caught.value).startswith(said)
    assert caught.value.field == said.split("'")[1]


def test_params_can_be_copied():
    params = SamplingParams(stop="x", logit_bias={1: 2.0})
    for same in (copy.deepcopy(params), copy.copy(params), dataclasses.replace(params)):
        assert same == params


def test_the_ends_of_every_range_are_taken():
    for ends in (
        {"n": 1, "temperature": 0, "top_p": 1e-9, "top_k": -1, "min_p": 0, "repetition_penalty": 1e-9, "seed": 0},
        {"n": 128, "temperature": 100, "top_p": 1, "top_k": INT, "min_p": 1, "repetition_penalty": 10},
        {"presence_penalty": -2, "frequency_penalty": 2, "seed": 2**63 - 1, "max_tokens": None, "min_tokens": INT},
        {"logprobs": 0, "prompt_logprobs": 20, "stop": ["x"] * 16, "stop_token_ids": (), "logit_bias": {0: -100}},
    ):
        SamplingParams(**ends)


@pytest.fixture(scope="module")
def llm(checkpoint):
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, max_model_len=64, page_size=4) as engine:
        yield engine


BAD_REQUESTS = [
    ([], {}, "prompt", "the prompt is empty; expected at least one token"),
    ([1] * 64, {}, "prompt", "the prompt has 64 tokens; this engine's context of 64 must hold it and at least one new"),
    ([1] * 5000, {}, "prompt", "shorten the prompt to 63 tokens"),
    ([1, VOCAB], {}, "prompt", f"the prompt holds {VOCAB}; expected token ids from 0 to {VOCAB - 1}"),
    ([1, -1], {}, "prompt", "the prompt holds -1; expected token ids"),
    ([1, 2.5], {}, "prompt", "the prompt holds 2.5; expected token ids"),
    ([1, "2"], {}, "prompt", "the prompt holds '2'; expected token ids"),
    ([1, True], {}, "prompt", "the prompt holds True; expected token ids"),
    ([1, 2**40], {}, "prompt", "the prompt holds 1099511627776; expected token ids"),
    ([1], {"logit_bias": {VOCAB: 1}}, "logit_bias", f"logit_bias holds {VOCAB}; expected ids from 0 to {VOCAB - 1}"),
    ([1], {"stop_token_ids": [VOCAB]}, "stop_token_ids", f"stop_token_ids holds {VOCAB}; expected ids from 0 to"),
    ([1], {"stop": "x", "detokenize": True}, "stop", "stop strings need a tokenizer; use stop_token_ids"),
    (
        [1] * 60,
        {"max_tokens": 9, "min_tokens": 5},
        "min_tokens",
        "min_tokens is 5; expected at most 4, which is what the prompt's 60 tokens leave of this engine's context",
    ),
    (5, {}, "prompt", "the prompt is 5; expected text or a list of token ids"),
    (None, {}, "prompt", "the prompt is None; expected text or a list of token ids"),
    ([[1]], {}, "prompt", "the prompt holds [1]; expected token ids"),
    ("text", {}, "prompt", "the prompt is text, but the engine has no tokenizer; pass token ids"),
]


@pytest.mark.parametrize(("prompt", "fields", "field", "said"), BAD_REQUESTS)
def test_a_bad_request_is_refused_before_any_runs(llm, prompt, fields, field, said):
    steps = llm.stats().steps
    good, bad = SamplingParams(**GREEDY), SamplingParams(**GREEDY | fields)
    with pytest.raises(RequestError) as caught:
        llm.generate([GOOD[0], prompt, GOOD[1]], [good, bad, good])
    assert caught.value.field == field
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError):
        llm.stream(prompt, bad)
    stats = llm.stats()
    assert (stats.steps, stats.running, stats.waiting, stats.kv_usage) == (steps, 0, 0, 0)
    llm._core.scheduler.check_integrity()


def test_lists_of_different_lengths(llm):
    with pytest.raises(RequestError, match="2 prompts, 1 params and 2 priorities; expected as many"):
        llm.generate(GOOD[:2], [SamplingParams()])
    with pytest.raises(RequestError, match="2 prompts, 2 params and 3 priorities; expected as many"):
        llm.generate(GOOD[:2], priority=[0, 0, 0])


def test_a_priority_without_the_policy_is_refused(llm):
    with pytest.raises(RequestError, match="priority is 3, but the engine serves in order of arrival"):
        llm.generate(GOOD[0], priority=3)


def test_no_prompts_are_no_outputs(llm):
    assert llm.generate([]) == []


def test_prompts_may_be_arrays(llm):
    params = SamplingParams(**GREEDY)
    wanted = llm.generate(GOOD[0], params)[0].outputs[0].token_ids
    assert llm.generate([np.array(GOOD[0])], params)[0].outputs[0].token_ids == wanted
    assert llm.generate(np.array(GOOD[0], np.int32), params)[0].outputs[0].token_ids == wanted


def test_a_prompt_that_leaves_room_for_one_token_gets_one(llm):
    (output,) = llm.generate([1] * 63, SamplingParams(**GREEDY))
    assert (len(output.outputs[0].token_ids), output.outputs[0].finish_reason) == (1, "length")


def test_bad_requests_beside_good_ones_cost_nothing():
    """All at once, on one engine: the good ones get what they get alone, and in the end no page is held."""

    async def main() -> None:
        engine = AsyncEngine("demo", "numpy", max_model_len=64)
        params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
        prompts = [[7, 8, 9], [5] * 16, [6] * 33]
        bad = [
            ([], params),
            ([1] * 64, params),
            ([-1], params),
            ([10**6], params),
            ([1], dataclasses.replace(params, stop_token_ids=[10**6])),
            ([1], params, {"priority": "high"}),
            ([1], params, {"cache_salt": "\ud800"}),
            ([1], params, {"cache_salt": 5}),
        ]

        async def tokens(prompt: list[int], params: SamplingParams, how: dict[str, Any] | None = None) -> list[int]:
            pieces = engine.generate(prompt, params, **how or {})
            return [t async for piece in pieces for t in piece.outputs[0].new_token_ids]

        alone = [await tokens(prompt, params) for prompt in prompts]
        good = [(p, params) for p in prompts]
        mixed = [*bad[:2], good[0], bad[2], good[1], bad[3], good[2], *bad[4:]]
        results = await asyncio.gather(*(tokens(*request) for request in mixed), return_exceptions=True)
        assert [r for r in results if not isinstance(r, BaseException)] == alone
        failed = [r for r in results if isinstance(r, BaseException)]
        assert len(failed) == len(bad)
        assert all(isinstance(error, RequestError) and error.field for error in failed)
        assert engine.alive
        await engine.close()
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.kv_usage) == (0, 0, 0)

    asyncio.run(main())


def test_params_that_are_none(llm):
    for params in ({"max_tokens": 2}, [{"max_tokens": 2}]):
        with pytest.raises(RequestError, match=r"params is \{'max_tokens': 2\}; expected SamplingParams"):
            llm.generate([1, 2], params)


def test_an_empty_text_is_refused_though_the_tokenizer_would_begin_it():
    with LLM("demo", device="numpy", max_model_len=64, kv_pages=8) as llm:
        assert llm.tokenizer.encode("a")[0] == llm.tokenizer.bos_token_id
        with pytest.raises(RequestError, match="the prompt is empty; expected at least one character"):
            llm.generate(["Return", ""])
        assert llm.stats().steps == 0


def test_a_conversation_that_is_a_text():
    with LLM("demo", device="numpy") as llm, pytest.raises(RequestError, match="messages is 'hi'; expected a list of"):
        llm.chat("hi")


def test_a_closed_engine_says_so():
    with LLM("demo", device="numpy", max_model_len=64, kv_pages=8) as llm:
        pass
    with pytest.raises(EngineDeadError, match="closed; start a new one"):
        llm.generate("x")
    with pytest.raises(EngineDeadError, match="closed; start a new one"):
        llm.stream("x")
