"""The KV cache's size where a device measures what its largest steps take."""

from __future__ import annotations

import pytest
from anychip import LLM, CapacityError, SamplingParams
from anychip_sdk.contract import Memory, OutOfMemory
from anychip_sdk.kits.numpy.allocator import NumpyAllocator
from anychip_sdk.kits.numpy.device import NumpyDevice
from checkpoints import prompts

MIB = 2**20
OPTIONS = {"dtype": "float32", "max_num_seqs": 4, "max_num_batched_tokens": 40, "max_model_len": 64}


@pytest.fixture
def meter(monkeypatch):
    """Makes numpy a device that measures: `peak` bytes a step, `free` bytes once weights are there. `keys`: of the
    steps that ran while it did."""

    class Meter:
        peak, free, keys = MIB, 64 * MIB, []

    measuring = []

    def peak(self, run):
        measuring.append(1)
        run()
        measuring.clear()
        return Meter.peak

    def compile(self, step, key):
        Meter.keys += [key] * len(measuring)
        return right(self, step, key)

    right = NumpyDevice.compile
    Meter.keys = []
    monkeypatch.setattr(NumpyAllocator, "peak", peak)
    monkeypatch.setattr(NumpyAllocator, "memory", lambda self: Memory(Meter.free, 1024 * MIB))
    monkeypatch.setattr(NumpyDevice, "compile", compile)
    return Meter


def open_llm(checkpoint, **options):
    return LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, **(OPTIONS | options))


def test_the_cache_takes_its_share_of_what_the_measured_steps_leave(checkpoint, meter):
    meter.peak = 25 * MIB  # two steps of it and the margin leave 9 MiB
    with open_llm(checkpoint, max_num_seqs=500, max_num_batched_tokens=500) as llm:
        budget = llm._built.budget
    cache, activations = budget.cache, budget.activations
    assert activations == int(1.1 * 50 * MIB)
    share = (64 * MIB - activations) * 0.5
    page = cache.layout.spec.page_bytes(0, cache.layout.page_size)
    assert share - page < cache.size <= share


def test_the_largest_steps_are_run_on_scratch(checkpoint, meter):
    asked, params = prompts(3), SamplingParams(temperature=0, max_tokens=5, detokenize=False)
    with open_llm(checkpoint) as llm:
        mixed, decodes = meter.keys
        outputs = llm.generate(asked, params)
    assert (mixed.bucket.tokens, mixed.bucket.seqs, mixed.bucket.rows, mixed.bucket.decode) == (40, 4, 4, False)
    assert (decodes.bucket.tokens, decodes.bucket.seqs, decodes.bucket.decode) == (4, 4, True)
    assert mixed.bucket.pages == decodes.bucket.pages == 64 // 16
    assert mixed.sample.filters
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, dtype="float32", kv_pages=40) as other:
        wanted = other.generate(asked, params)
    assert [o.outputs[0].token_ids for o in outputs] == [o.outputs[0].token_ids for o in wanted]


@pytest.mark.parametrize("seqs", [1, 3, 5, 200])
@pytest.mark.parametrize("step_tokens", [200, 640, 1000])
def test_no_sequence_of_the_largest_step_is_too_long(checkpoint, meter, seqs, step_tokens):
    """A step of more tokens than all requests have is as large as these."""
    with open_llm(checkpoint, max_num_seqs=seqs, max_num_batched_tokens=step_tokens):
        assert meter.keys[0].bucket.tokens == min(step_tokens, seqs * 64)


def test_too_little_memory_beside_the_steps_is_said(checkpoint, meter):
    meter.peak = 40 * MIB
    with pytest.raises(CapacityError) as caught:
        open_llm(checkpoint)
    assert str(caught.value) == (
        "a step of 40 tokens takes 88.0 MiB beside the weights, numpy has 64.0 MiB left: use smaller steps "
        "(max_num_batched_tokens, max_num_seqs)"
    )


def test_a_largest_step_that_does_not_fit_is_said(checkpoint, meter, monkeypatch):
    def peak(self, run):
        raise OutOfMemory("no memory for the step: 2 GiB asked for")

    monkeypatch.setattr(NumpyAllocator, "peak", peak)
    said = r"numpy has too little memory for a step of 40 tokens: no memory for the step: .* use smaller steps"
    with pytest.raises(CapacityError, match=said):
        open_llm(checkpoint)


def test_a_device_that_cannot_measure_keeps_the_estimate(checkpoint, meter, monkeypatch):
    monkeypatch.setattr(NumpyAllocator, "peak", lambda self, run: None)
    with open_llm(checkpoint) as llm:
        assert 0 < llm._built.budget.activations < 4 * MIB
    assert not meter.keys
