"""Whole engines on a device that pads, records and replays decoding steps: the tokens are those of the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from anychip.sampling_params import SamplingParams
from anychip_sdk.conformance import models
from anychip_sdk.conformance.engines import Engine
from anychip_sdk.contract import (
    Bucket,
    DeviceError,
    KVLayout,
    KVSpec,
    OutOfMemory,
    Paged,
    Sampled,
    SampleKind,
    StepKey,
    words,
)  # fmt: skip
from anychip_sdk.kits.numpy.platform import NumpyPlatform
from anychip_sdk.kits.triton.attention import Static
from anychip_sdk.kits.triton.buckets import PAGES, SEQS, decode_bucket
from triton.errors import TritonError
from triton_device import recording_device

torch.set_num_threads(1)
DECODE = StepKey(Bucket(4, 4, 256, 4, True), static=Static(True, False, True))


@pytest.mark.parametrize(
    ("family", "kv_dtype"), [("gemma3", "auto"), ("mixtral", "auto"), ("gemma3", "int8"), ("qwen3", "fp8")]
)
def test_engines_give_the_oracles_tokens(family, kv_dtype, tmp_path):
    """Greedy and drawn, launched ahead, and one request with lists of its own, whose steps run eagerly; in chunks. The
    oracle keeps K and V in the same format."""
    folder = models.write(family, tmp_path / family, "float32", seed=0)
    prompts = models.prompts((1, 9, 17), seed=1)
    params = [
        SamplingParams(temperature=0, max_tokens=4, ignore_eos=True),
        SamplingParams(temperature=0.8, top_k=20, seed=3, max_tokens=4, ignore_eos=True),
        SamplingParams(temperature=0, max_tokens=2, presence_penalty=0.5, logprobs=2, ignore_eos=True),
    ]
    options = {"dtype": "float32", "kv_dtype": kv_dtype, "kv_pages": 9, "page_size": 8, "max_prefill_chunk": 16}
    device, graphs = recording_device()
    engine, oracle = Engine(folder, device, **options), Engine(folder, NumpyPlatform().open(), **options)
    got, wanted = engine.generate(prompts, params), oracle.generate(prompts, params)
    assert [d.tokens for d in got] == [d.tokens for d in wanted]
    assert [len(d.tokens) for d in got] == [4, 4, 2]
    np.testing.assert_allclose(got[2].logprobs, wanted[2].logprobs, atol=1e-4)
    assert graphs.graphs
    engine.check_idle()
    engine.close()
    oracle.close()


def test_buckets():
    exact = Bucket(5, 5, 3, 5, True, groups=2)
    assert decode_bucket(exact) == Bucket(8, 8, 256, 8, True, groups=2)
    held = decode_bucket(exact)
    assert decode_bucket(held) == held
    assert decode_bucket(held) is not held  # the same object would mean: run at exact shapes
    assert decode_bucket(replace(exact, decode=False)) is None
    assert decode_bucket(replace(exact, rows=6)) is None
    assert decode_bucket(replace(exact, tokens=257, seqs=257, rows=257)) is None
    assert decode_bucket(replace(exact, pages=PAGES[-1] + 1)) is None
    assert SEQS[-1] == 256
    device, _ = recording_device()
    mixed = replace(exact, decode=False)
    assert device.bucket(mixed) is mixed


def launch(device, step, key=DECODE, fill=0, weights=None, kv=None, state=None):
    buffer = device.lend(words(key))
    buffer[4 : 4 + key.bucket.tokens] = fill  # token_ids
    return device.compile(step, key)(weights, kv, state, buffer)


def doubled(weights, kv, state, batch):
    return Sampled(batch.token_ids * 2), kv, state


def test_a_result_outlives_the_next_replay():
    device, graphs = recording_device()
    run = device.compile(doubled, DECODE)
    pending = []
    for fill in (3, 5):
        buffer = device.lend(words(DECODE))
        assert not buffer.any()
        buffer[4:8] = fill
        pending.append(run(None, None, None, buffer)[0])
    assert len(graphs.graphs) == 1
    assert [p.get().tokens.tolist() for p in pending] == [[6] * 4, [10] * 4]


def test_few_numbers_of_logprobs_are_compiled():
    device, _ = recording_device()
    assert device.sample_kind(SampleKind(filters=True)) == SampleKind(filters=True)
    served = [device.sample_kind(SampleKind(logprobs=n)).logprobs for n in range(22)]
    assert served == [0, 1, 2, 5, 5, 5, *[10] * 5, *[20] * 10, 21]


def test_steps_in_many_shapes_are_not_recorded():
    device, graphs = recording_device()
    for kind in (SampleKind(edits=1), SampleKind(penalties=2), SampleKind(logprobs=0)):
        assert launch(device, doubled, replace(DECODE, sample=kind), fill=4)[0].get().tokens.tolist() == [8] * 4
    odd = replace(DECODE, bucket=Bucket(3, 3, 1, 3, True))
    prefill = replace(DECODE, bucket=Bucket(4, 4, 256, 4, False))
    for key in (odd, prefill):
        launch(device, doubled, key)
    assert not graphs.graphs
    launch(device, doubled, replace(DECODE, sample=SampleKind(filters=True), feed=True))
    assert len(graphs.graphs) == 1


def test_another_cache_is_recorded_anew():
    device, graphs = recording_device()
    run = device.compile(doubled, DECODE)
    one, two = object(), object()
    for kv in (one, one, two):
        assert run(None, kv, None, device.lend(words(DECODE)))[1] is kv
    assert len(graphs.graphs) == 2


def test_a_step_that_gives_back_another_cache_is_refused():
    device, _ = recording_device()
    with pytest.raises(DeviceError, match="another KV cache or state; a recorded step works in place"):
        launch(device, lambda w, kv, state, batch: (Sampled(batch.token_ids), object(), state))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (
            RuntimeError("CUDA error: an illegal memory access\nmore"),
            DeviceError,
            "the step failed: CUDA error: an ill",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory, "no memory for the step"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), OutOfMemory, "no memory for the step: Triton Error"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), OutOfMemory, "no memory for the step"),
        (
            TritonError("out of resource: shared memory\nmore"),
            DeviceError,
            "cannot be made or started: out of resource",
        ),
    ],
    ids=["fault", "memory", "memory for code", "memory for products", "kernel"],
)
def test_faults_are_named_and_the_next_step_runs(fault, error, message):
    """A recording that failed is not replayed: it is made anew."""
    device, graphs = recording_device()
    left = [fault]

    def step(weights, kv, state, batch):
        if left:
            raise left.pop()
        return doubled(weights, kv, state, batch)

    run = device.compile(step, DECODE)
    with pytest.raises(error, match=message):
        run(None, None, None, device.lend(words(DECODE)))
    assert not graphs.graphs
    buffer = device.lend(words(DECODE))
    buffer[4:8] = 7
    assert run(None, None, None, buffer)[0].get().tokens.tolist() == [14] * 4


def test_memory_on_the_host_is_the_hosts():
    device, _ = recording_device()
    memory = device.allocator.memory()
    assert 0 < memory.free <= memory.total
    layout = KVLayout(KVSpec((Paged(layers=1, kv_heads=1, k_dim=4, v_dim=4),), "float32"), 4, (3,), 2)
    kv = device.allocator.allocate(layout)
    assert device.allocator.copy_pages(kv, 0, np.int32([1]), np.int32([2])) is kv
    device.allocator.free(kv)
