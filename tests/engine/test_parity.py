"""Greedy tokens equal Hugging Face Transformers', whatever the engine does to get there."""

from __future__ import annotations

import checkpoints
import pytest
import torch
from anychip import LLM, SamplingParams

EDGES = (1, 7, 8, 9, 15, 16, 17, 25, 50)  # one token, page edges for 8 and 16, longer than the window of 20
TOKENS = 16
SETTINGS = {
    "whole": {},
    "chunks of 7": {"max_prefill_chunk": 7},
    "chunks of 1": {"max_prefill_chunk": 1},
    "few pages": {"kv_pages": 14, "page_size": 8, "max_num_batched_tokens": 32, "max_num_seqs": 6},
}
GREEDY = SamplingParams(temperature=0, max_tokens=TOKENS, detokenize=False)


@pytest.fixture(scope="module")
def expected(checkpoint):
    """family -> (prompts, Transformers' tokens)."""
    known = {}

    def tokens(family):
        if family not in known:
            prompts = checkpoints.prompts(len(EDGES), EDGES)
            model = checkpoint(family)[1]
            known[family] = prompts, [checkpoints.greedy(model, p, TOKENS) for p in prompts]
        return known[family]

    return tokens


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_greedy_tokens_are_transformers(family, setting, device, checkpoint, expected):
    prompts, wanted = expected(family)
    with LLM(checkpoint(family)[0], device, skip_tokenizer=True, dtype="float32", **SETTINGS[setting]) as llm:
        got = [o.outputs[0].token_ids for o in llm.generate(prompts, GREEDY)]
        llm._core.scheduler.check_integrity()
        assert llm._core.kv.usage == 0
        assert (llm.stats().preemptions > 0) == (setting == "few pages")
    assert got == wanted


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_forty_requests_arrive_at_different_steps(family, device, checkpoint):
    directory, model = checkpoint(family)
    prompts = checkpoints.prompts(40, seed=3)
    wanted = [checkpoints.greedy(model, p, 8) for p in prompts]
    params = SamplingParams(temperature=0, max_tokens=8, detokenize=False)
    with LLM(directory, device, skip_tokenizer=True, dtype="float32", page_size=8, kv_pages=60, max_num_seqs=12,
             max_num_batched_tokens=64) as llm:  # fmt: skip
        core, requests = llm._core, []
        for i, prompt in enumerate(prompts):
            requests += core.make(str(i), prompt, params)
            core.add(requests[-1:])
            if i % 3 == 0:
                core.step()
        while core.has_work:
            core.step()
            core.scheduler.check_integrity()
    assert [r.output for r in requests] == wanted


@pytest.mark.parametrize("device", ["numpy", "cpu"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
def test_prefix_hits_change_nothing(family, device, checkpoint):
    directory, model = checkpoint(family)
    shared = checkpoints.prompts(1, (48,))[0]
    prompts = [shared + tail for tail in checkpoints.prompts(4, (1, 5, 8, 20), seed=5)] + [shared]
    wanted = [checkpoints.greedy(model, p, TOKENS) for p in prompts]
    with LLM(directory, device, skip_tokenizer=True, dtype="float32", page_size=8) as llm:
        for _ in range(2):
            outputs = llm.generate(prompts, GREEDY)
            assert [o.outputs[0].token_ids for o in outputs] == wanted
        assert outputs[0].num_cached_tokens == 48
        assert outputs[-1].num_cached_tokens == 40  # the last token is computed for its logits
        assert llm.stats().prefix_hits > 0


def test_bfloat16_differs_at_near_ties_only(tmp_path):
    """Where our token is not the float32 model's, the two must be within the rounding of bfloat16 logits."""
    model = checkpoints.build("llama", tmp_path, dtype=torch.bfloat16).float()
    prompts = checkpoints.prompts(8, EDGES[:8])
    with LLM(tmp_path, "cpu", skip_tokenizer=True, dtype="bfloat16") as llm:
        outputs = [o.outputs[0].token_ids for o in llm.generate(prompts, GREEDY)]
    for prompt, tokens in zip(prompts, outputs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        margin = logits.max(-1).values - logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        budget = 16 * 2.0**-8 * logits.abs().max(-1).values  # 4 layers of 4 roundings each, 8 bits of mantissa
        assert (margin <= budget).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sharded_checkpoints_of_every_dtype_load(tmp_path, dtype):
    model = checkpoints.build("llama3", tmp_path, dtype=dtype, max_shard_size="20KB").float()
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    prompt = checkpoints.prompts(1, (12,))[0]
    with LLM(tmp_path, "numpy", skip_tokenizer=True) as llm:
        assert llm.generate(prompt, GREEDY)[0].outputs[0].token_ids == checkpoints.greedy(model, prompt, TOKENS)
