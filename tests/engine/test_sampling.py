"""What a request's parameters do, through the whole engine."""

from __future__ import annotations

import math

import checkpoints
import numpy as np
import pytest
import torch
import transformers as tf
from anychip import LLM, RequestError, SamplingParams

PROMPTS = checkpoints.prompts(6, (5, 9, 17, 30))


@pytest.fixture(scope="module", params=["numpy", "cpu"])
def llm(request, checkpoint):
    with LLM(checkpoint("llama")[0], request.param, skip_tokenizer=True, dtype="float32", max_num_seqs=8) as engine:
        yield engine
        assert engine._core.kv.usage == 0


def tokens(llm, prompt, **fields):
    (output,) = llm.generate(prompt, SamplingParams(**{"max_tokens": 8, "detokenize": False} | fields))
    return [c.token_ids for c in output.outputs]


def test_a_seed_gives_the_same_tokens_whatever_else_runs(llm):
    params = SamplingParams(temperature=1.5, seed=11, max_tokens=12, detokenize=False)
    alone = tokens(llm, PROMPTS[0], temperature=1.5, seed=11, max_tokens=12)[0]
    others = [SamplingParams(temperature=0.9, top_k=5, max_tokens=9, detokenize=False)] * 5
    together = llm.generate(PROMPTS, [params, *others])
    assert together[0].outputs[0].token_ids == alone
    assert tokens(llm, PROMPTS[0], temperature=1.5, seed=12, max_tokens=12)[0] != alone


def test_a_seed_survives_preemption(checkpoint):
    params = [SamplingParams(temperature=2.0, seed=i, max_tokens=20, detokenize=False) for i in range(6)]
    directory = checkpoint("llama")[0]
    with LLM(directory, "numpy", skip_tokenizer=True, dtype="float32") as roomy:
        wanted = [o.outputs[0].token_ids for o in roomy.generate(PROMPTS, params)]
    with LLM(directory, "numpy", skip_tokenizer=True, dtype="float32", page_size=4, kv_pages=24) as tight:
        assert [o.outputs[0].token_ids for o in tight.generate(PROMPTS, params)] == wanted
        assert tight.stats().preemptions > 0


def test_n_completions_differ_and_the_first_is_the_seeds_own(llm):
    three = tokens(llm, PROMPTS[2], n=3, temperature=2.0, seed=5)
    assert three[0] == tokens(llm, PROMPTS[2], temperature=2.0, seed=5)[0]
    assert len({tuple(t) for t in three}) == 3
    assert tokens(llm, PROMPTS[2], n=3, temperature=0) == tokens(llm, PROMPTS[2], temperature=0) * 3


def test_n_over_the_slots_still_completes(llm):
    assert len(tokens(llm, PROMPTS[1], n=20, temperature=1.0, seed=1)) == 20


def test_top_k_1_and_tiny_top_p_are_greedy(llm):
    greedy = tokens(llm, PROMPTS[1], temperature=0)
    assert tokens(llm, PROMPTS[1], temperature=5.0, top_k=1) == greedy
    assert tokens(llm, PROMPTS[1], temperature=5.0, top_p=1e-6) == greedy
    assert tokens(llm, PROMPTS[1], temperature=5.0, min_p=1.0) == greedy


def test_logit_bias_forces_and_forbids(llm):
    assert tokens(llm, PROMPTS[0], temperature=0, logit_bias={42: 100.0}) == [[42] * 8]
    first = tokens(llm, PROMPTS[0], temperature=0)[0][0]
    assert tokens(llm, PROMPTS[0], temperature=0, logit_bias={first: -100.0})[0][0] != first


def test_stop_ids_min_tokens_and_lengths(llm):
    greedy = tokens(llm, PROMPTS[3], temperature=0)[0]
    stop = greedy[2]
    cut = greedy[: greedy.index(stop) + 1]
    assert tokens(llm, PROMPTS[3], temperature=0, stop_token_ids=[stop]) == [cut]
    longer = tokens(llm, PROMPTS[3], temperature=0, stop_token_ids=[stop], min_tokens=6)[0]
    assert len(longer) >= 6
    assert stop not in longer[:6]
    (output,) = llm.generate(PROMPTS[3], SamplingParams(temperature=0, max_tokens=3, detokenize=False))
    assert output.outputs[0].finish_reason == "length"
    (all_of_it,) = tokens(llm, PROMPTS[3], temperature=0, max_tokens=None)
    assert len(all_of_it) == llm.max_model_len - len(PROMPTS[3])


def test_penalties_discourage_repetition(llm):
    plain = tokens(llm, PROMPTS[0], temperature=0, max_tokens=40)[0]
    for field, value in (("repetition_penalty", 10.0), ("frequency_penalty", 2.0), ("presence_penalty", 2.0)):
        changed = tokens(llm, PROMPTS[0], temperature=0, max_tokens=40, **{field: value})[0]
        assert changed != plain
        assert len(set(changed)) >= len(set(plain))


def test_logprobs_are_the_models(llm, checkpoint):
    model = checkpoint("llama")[1]
    prompt = PROMPTS[3]
    params = SamplingParams(temperature=0, max_tokens=5, logprobs=3, prompt_logprobs=2, detokenize=False)
    (output,) = llm.generate(prompt, params)
    got = output.outputs[0]
    with torch.no_grad():
        wanted = model(torch.tensor([prompt + got.token_ids])).logits[0].log_softmax(-1).numpy()
    for i, entry in enumerate(got.logprobs):
        row = wanted[len(prompt) - 1 + i]
        assert entry.chosen.token_id == got.token_ids[i]
        assert entry.chosen.rank == 1
        assert math.isclose(entry.chosen.logprob, row[got.token_ids[i]], abs_tol=1e-4)
        assert [t.token_id for t in entry.top] == np.argsort(-row)[:3].tolist()
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(prompt)
    for i, entry in enumerate(output.prompt_logprobs[1:]):
        assert entry.chosen.token_id == prompt[i + 1]
        assert math.isclose(entry.chosen.logprob, wanted[i][prompt[i + 1]], abs_tol=1e-4)
        assert entry.chosen.rank == 1 + (wanted[i] > wanted[i][prompt[i + 1]]).sum()
        assert len(entry.top) == 2


def test_there_are_no_more_logprobs_than_tokens(tmp_path, monkeypatch):
    """Nor is a device asked for more: a top-k of a library may refuse."""
    config = tf.LlamaConfig(**checkpoints.HEADS | {"vocab_size": 7})
    tf.LlamaForCausalLM(config).save_pretrained(tmp_path)
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=20, prompt_logprobs=9, detokenize=False)
    with LLM(tmp_path, "numpy", skip_tokenizer=True) as llm:
        executor, asked = llm._core._executor, []
        launch = executor.launch
        monkeypatch.setattr(executor, "launch", lambda key, *given: asked.append(key) or launch(key, *given))
        (output,) = llm.generate([1, 2, 3], params)
    assert {key.sample.logprobs for key in asked} == {7}
    assert output.error is None
    for entry in (*output.outputs[0].logprobs, *output.prompt_logprobs[1:]):
        assert sorted(t.token_id for t in entry.top) == list(range(7))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", True), ("temperature", -1), ("temperature", math.nan), ("top_p", 0), ("top_p", 1.1),
        ("top_k", -2), ("min_p", 2), ("repetition_penalty", 0), ("presence_penalty", 3), ("frequency_penalty", -3),
        ("seed", -1), ("max_tokens", 0), ("min_tokens", -1), ("logprobs", 21), ("prompt_logprobs", -1), ("stop", [""]),
        ("stop", 3), ("stop_token_ids", [-1]), ("logit_bias", {1: 101}), ("logit_bias", {"a": 1}), ("ignore_eos", 1),
    ],
)  # fmt: skip
def test_bad_fields_are_named(field, value):
    with pytest.raises(RequestError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize("prompt", [[], [96], [-1], [1.5], [True], list(range(90)) * 3])
def test_bad_prompts_are_refused_and_the_next_is_served(llm, prompt):
    good = tokens(llm, PROMPTS[0], temperature=0)
    with pytest.raises(RequestError, match="prompt"):
        tokens(llm, [prompt])
    assert tokens(llm, PROMPTS[0], temperature=0) == good
