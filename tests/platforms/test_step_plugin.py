"""A device that runs whole steps gets the same scheduler, pages and sampling as one of ops."""

from __future__ import annotations

import checkpoints
import pytest
from anychip import LLM, CapacityError, SamplingParams
from whole_steps import WholeSteps

PROMPTS = checkpoints.prompts(6, (1, 15, 16, 17))
GREEDY = SamplingParams(temperature=0, max_tokens=8, detokenize=False)


@pytest.fixture
def plugin(install, monkeypatch):
    """The step plugin that `--device graph` opens."""
    made = WholeSteps()
    install("graph", open="import whole_steps; return whole_steps.CURRENT")
    monkeypatch.setattr("whole_steps.CURRENT", made, raising=False)
    return made


def tokens(outputs):
    return [[o.token_ids for o in output.outputs] for output in outputs]


def test_its_tokens_are_those_of_the_ops(plugin, checkpoint):
    directory, model = checkpoint("llama")
    with LLM(directory, "graph", skip_tokenizer=True) as llm:
        ahead = [key.bucket for key in plugin._ran]
        got = tokens(llm.generate(PROMPTS, GREEDY))
        llm._core.scheduler.check_integrity()
        assert llm._core.kv.usage == 0
    assert got == [[checkpoints.greedy(model, p, 8)] for p in PROMPTS]
    assert {bucket.seqs for bucket in ahead} == {1, 2, 4, 8, 16, 32, 64}  # what it pads is run before the first request
    assert {key.bucket.seqs for key in plugin._ran[len(ahead) :] if key.bucket.decode} == {8}
    assert plugin._closed == 1


def test_chunks_preemption_and_forks_reach_it(plugin, checkpoint):
    params = SamplingParams(temperature=0.8, seed=5, n=3, max_tokens=24, logprobs=2, detokenize=False)
    options = {"skip_tokenizer": True, "max_prefill_chunk": 7, "kv_pages": 14, "dtype": "float32"}
    with LLM(checkpoint("llama")[0], "numpy", **options) as llm:
        wanted = llm.generate(PROMPTS, params)
    with LLM(checkpoint("llama")[0], "graph", **options) as llm:
        got = llm.generate(PROMPTS, params)
        assert llm.stats().preemptions > 0
    assert tokens(got) == tokens(wanted)
    for ours, theirs in zip(got[0].outputs, wanted[0].outputs, strict=True):
        values = [t.chosen.logprob for t in theirs.logprobs]
        assert [t.chosen.logprob for t in ours.logprobs] == pytest.approx(values, abs=1e-4)  # other batches, other sums
    assert plugin._copied > 0


def test_a_fault_of_its_step_fails_that_step(plugin, checkpoint):
    with LLM(checkpoint("llama")[0], "graph", skip_tokenizer=True) as llm:
        plugin._fail_in = 3
        failed = llm.generate(PROMPTS, GREEDY)
        assert all("the graph fell over" in o.error for o in failed)
        assert all(o.error is None for o in llm.generate(PROMPTS, GREEDY))


def test_an_architecture_it_lacks_is_refused_and_the_device_given_back(plugin, checkpoint):
    with pytest.raises(CapacityError) as caught:
        LLM(checkpoint("qwen3")[0], "graph", skip_tokenizer=True)
    assert str(caught.value).startswith("graph cannot run ")
    assert str(caught.value).endswith(": it has no graph of Qwen3ForCausalLM; it has LlamaForCausalLM")
    assert plugin._closed == 1


def test_what_it_does_not_claim_is_not_asked_of_it(plugin, checkpoint):
    with pytest.raises(CapacityError, match="MistralForCausalLM needs sliding windows, which graph does not have"):
        LLM(checkpoint("mistral")[0], "graph", skip_tokenizer=True)
    with pytest.raises(CapacityError, match="graph has no weights in bfloat16; it has float32"):
        LLM(checkpoint("llama")[0], "graph", skip_tokenizer=True, dtype="bfloat16")


def test_no_memory_for_its_pages(plugin, checkpoint):
    plugin._pages = 3
    with pytest.raises(CapacityError, match=r"graph ran out of memory loading .*: no memory for 9 pages"):
        LLM(checkpoint("llama")[0], "graph", skip_tokenizer=True, kv_pages=9)
    assert plugin._closed == 1
