"""A warm engine on an emulated TPU: nothing is compiled any more, whatever comes, and steps run one ahead."""

from __future__ import annotations

import logging
from dataclasses import replace

import checkpoints
import jax
import pytest
from anychip import SamplingParams
from anychip.runner.warm_up import Limits, expected_keys, warm_up
from anychip_sdk.conformance.engines import Engine
from anychip_sdk.contract import Bucket, DeviceError, StepKey, words
from anychip_tpu.platform import EmulatedPlatform

pytestmark = pytest.mark.slow  # compiled or interpreted kernels

EVENT = "/jax/core/compile/backend_compile_duration"
GREEDY = SamplingParams(temperature=0, max_tokens=9, detokenize=False)
MIXED = [
    GREEDY,
    replace(GREEDY, temperature=1.3, seed=4, n=3, max_tokens=14),
    replace(GREEDY, temperature=0.8, seed=1, repetition_penalty=1.4, frequency_penalty=0.5, logit_bias={3: 1.0}),
    replace(GREEDY, logprobs=2, max_tokens=7),
    replace(GREEDY, top_k=5, top_p=0.9, min_p=0.01, temperature=0.7, min_tokens=3, stop_token_ids=[1, 2]),
]
LENGTHS = (5, 31, 32, 70, 40)
LIMITS = Limits(tokens=32, seqs=8, pages=16, groups=1)


@pytest.fixture(scope="module")
def warm(checkpoint):
    """An engine whose every step has been compiled."""
    directory, _ = checkpoint("llama3")
    options = {"dtype": "float32", "page_size": 16, "max_num_batched_tokens": 32, "max_model_len": 256}
    engine = Engine(directory, EmulatedPlatform().open(), **options)
    keys = expected_keys(engine.executor, LIMITS)
    assert list(warm_up(engine.executor, keys)) == keys
    yield engine, keys
    engine.close()


@pytest.fixture
def compiled():
    """Counts programs that XLA compiles."""
    found = []

    def listen(event, seconds, **_):
        if event == EVENT:
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_few_programs_serve_all(warm):
    _, keys = warm
    assert len(keys) == 3 * 2  # greedy, random and everything; decodes, and a mixture of up to 32 tokens
    assert all(key.feed for key in keys)


def test_a_mixed_workload_compiles_nothing(warm, compiled):
    engine, _ = warm
    for _ in range(2):  # the second finds its prompts cached
        prompts = checkpoints.prompts(5, LENGTHS)
        made = [engine.core.make(str(i), p, params) for i, (p, params) in enumerate(zip(prompts, MIXED, strict=True))]
        for requests in made:
            engine.core.add(requests)
        done = engine.finish([r for requests in made for r in requests])
        assert not any(d.error for d in done)
        engine.check_idle()
    assert engine.executor.copies  # completions of one prompt copied the page they shared
    assert compiled == []


def test_greedy_tokens_are_the_same_one_step_ahead(warm, checkpoint):
    engine, _ = warm
    assert engine.executor.asynchronous
    prompts = checkpoints.prompts(5, LENGTHS)
    _, model = checkpoint("llama3")
    wanted = [checkpoints.greedy(model, p, 9) for p in prompts]
    assert [d.tokens for d in engine.generate(prompts, GREEDY)] == wanted


def test_shapes_that_nobody_expected_are_an_error(warm, compiled):
    engine, keys = warm
    key = replace(keys[0], bucket=Bucket(64, 8, 16, 8, decode=False))
    with pytest.raises(
        DeviceError, match=r"a step needs Bucket\(tokens=64, .* none of the 2 shapes compiled at the st"
    ):
        engine.executor.launch(key, engine.executor.lend(words(key)), exact=False)
    assert compiled == []


def test_longer_lists_are_compiled_once_and_said(warm, caplog, compiled):
    """Prompt logprobs have as many rows as the prompt has tokens."""
    engine, _ = warm
    asked = replace(GREEDY, prompt_logprobs=1, max_tokens=1)
    with caplog.at_level(logging.WARNING, "anychip_sdk"):
        assert not engine.generate(checkpoints.prompts(1, (20,)), asked)[0].error
    assert "it was not compiled at the start" in caplog.text
    assert len(compiled) == 1
    engine.generate(checkpoints.prompts(2, (20,))[1:], asked)
    assert len(compiled) == 1


def test_kinds_are_few(warm):
    engine, _ = warm
    device = engine.executor._device
    whole = device.sample_kind(replace(StepKey(Bucket(1, 1, 1, 1, True)).sample, penalties=8))
    assert whole == device.sample_kind(replace(whole, filters=False, logprobs=None, edits=1))
    assert whole.filters
    assert whole.logprobs == device.capabilities.max_logprobs
    assert device.sample_kind(replace(whole, penalties=5000)).penalties == 16 * whole.penalties
