"""The JAX device: weights, pages, and steps as programs that are compiled once."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from anychip_sdk.contract import (
    AttentionSpec,
    Bucket,
    ContractError,
    DeviceError,
    KVLayout,
    KVSpec,
    Layer,
    NotSupported,
    OutOfMemory,
    Paged,
    Sampled,
    SampleKind,
    StepKey,
    WeightSpec,
    view,
    words,
)
from anychip_sdk.kits.jax import Buckets, JaxDevice, Kept, Ranks
from anychip_sdk.kits.jax.allocator import COPIES
from anychip_sdk.kits.jax.kept import compile_alone
from jax_cases import HOST, kit_device

KEY = StepKey(Bucket(1, 1, 1, 1, True))
TENSORS = {
    "q": np.arange(12, dtype=np.float32).reshape(4, 3),
    "k": np.arange(6, dtype=np.float16).reshape(2, 3),
    "v": -np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "u": np.arange(6, dtype=np.float16).reshape(2, 3) + 20,
    "wide": np.zeros((2, 5), np.float32),
    "q.bias": np.arange(4, dtype=np.float32),
    "k.bias": np.arange(2, dtype=np.float16) + 10,
    "norm": np.array([0.5, -1.0]).astype(ml_dtypes.bfloat16),
}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}
EVENT = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def device() -> Iterator:
    made = kit_device()
    yield made
    made.close()


def test_kinds_of_sampling_are_few(device):
    most = device.capabilities.max_logprobs
    whole = SampleKind(filters=True, penalties=4096, edits=256, logprobs=most)
    assert [device.sample_kind(SampleKind(filters=f)) for f in (False, True)] == [
        SampleKind(),
        SampleKind(filters=True),
    ]
    for some in (SampleKind(penalties=1), SampleKind(edits=256), SampleKind(logprobs=0), whole):
        assert device.sample_kind(some) == whole
    assert device.sample_kind(SampleKind(edits=257)) == replace(whole, edits=4096)
    assert device.sample_kind(SampleKind(logprobs=most + 1)).logprobs == most + 1


def read(name, index=()):
    return TENSORS[name][index]


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Every program that JAX compiles meanwhile, of whatever kind."""
    seen: list[str] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == EVENT:
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_are_joined_and_keep_their_sizes(device, dtype):
    w = device.pack(WeightSpec((("q",), ("k",), ("v",)), "linear"), read, SHAPES, dtype)
    assert w.sizes == (4, 2, 2)
    assert w.array.dtype == jnp.dtype(dtype)
    assert (
        w.array.astype(np.float32).tolist() == np.concatenate([TENSORS[n].astype(np.float32) for n in "qkv"]).tolist()
    )


def test_biases_norms_and_experts(device):
    spec = WeightSpec((("q",), ("k",)), "linear", bias=("q.bias", "k.bias"))
    assert device.pack(spec, read, SHAPES, "float32").bias.tolist() == [0, 1, 2, 3, 10, 11]
    norm = device.pack(WeightSpec((("norm",),), "norm", offset=1.0), read, SHAPES, "float16")
    assert (norm.array.tolist(), norm.array.dtype) == ([1.5, 0.0], np.float32)
    pair = device.pack(WeightSpec((("k", "u"), ("u", "k")), "experts"), read, SHAPES, "float32")
    assert (pair.array.shape, pair.sizes) == ((2, 4, 3), (2, 2))
    assert pair.array[1].tolist() == [*TENSORS["u"].tolist(), *TENSORS["k"].tolist()]


def test_what_is_packed_does_not_change_with_the_source(device):
    """JAX keeps the host's memory where it can; a checkpoint's goes away."""
    for kind in ("linear", "embedding"):
        source = np.zeros((64, 64), np.float32)
        w = device.pack(WeightSpec((("w",),), kind), lambda *_, kept=source: kept, {"w": source.shape}, "float32")
        source += 1
        assert not np.asarray(w.array).any()


def test_a_model_is_never_on_the_host_as_a_whole(device):
    """Each layer's weight goes to its place before the next is read."""
    layers, shape = 40, (256, 1024)
    specs = [Layer(AttentionSpec(head_dim=8, scale=1.0), i) for i in range(layers)]
    trees = [{"w": WeightSpec(((str(i),),), "linear")} for i in range(layers)]
    tracemalloc.start()
    try:
        packed = device.pack_layers(
            specs, trees, lambda name, index=(): np.full(shape, int(name), np.float32)[index],
            dict.fromkeys(map(str, range(layers)), shape), "float32",
        )  # fmt: skip
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stack = packed.weights[0][0]["w"].array
    assert np.asarray(stack[:, 0, 0]).tolist() == list(range(layers))
    assert most < stack.nbytes / 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (WeightSpec((("gone",),), "linear"), "no tensor 'gone', which a weight of kind linear needs"),
        (WeightSpec((("q",), ("wide",)), "linear"), r"'q' \[4, 3\] and 'wide' \[2, 5\] cannot be parts"),
        (WeightSpec((("q", "k"),), "experts"), "tensors of one stack differ in shape"),
    ],
    ids=str,
)
def test_shapes_that_make_no_weight(device, spec, message):
    with pytest.raises(ContractError, match=message):
        device.pack(spec, read, SHAPES, "float32")


def test_a_dtype_that_is_not_claimed_is_refused(device):
    with pytest.raises(NotSupported, match="jax has no float64; use float32, bfloat16, float16"):
        device.pack(WeightSpec((("q",),), "linear"), read, SHAPES, "float64")


SPEC = KVSpec((Paged(layers=2, kv_heads=3, k_dim=4, v_dim=2), Paged(layers=1, kv_heads=1, k_dim=4, v_dim=4)), "float16")


def test_pages_are_made_copied_and_given_back(device):
    kv = device.allocator.allocate(KVLayout(SPEC, 8, (60, 3), slots=2))
    keys, values = kv[0]
    assert (keys.shape, values.shape, keys.dtype) == ((2, 60, 3, 8, 4), (2, 60, 3, 8, 2), np.float16)
    assert not any(np.asarray(cache).any() for group in kv for cache in group)
    content = np.arange(keys.size, dtype=np.float16).reshape(keys.shape)
    kv = ((jnp.asarray(content), values), kv[1])
    source, target = np.arange(1, 21, dtype=np.int32), np.arange(40, 60, dtype=np.int32)  # more than one program's
    assert COPIES < 20
    kv = device.allocator.copy_pages(kv, 0, source, target)
    content[:, target] = content[:, source]
    np.testing.assert_array_equal(np.asarray(kv[0][0]), content)
    with compilations() as seen:
        kv = device.allocator.copy_pages(kv, 0, source[:1], target[:1])
        kv = device.allocator.copy_pages(kv, 0, source[:0], target[:0])
    assert not seen
    device.allocator.free(kv)
    assert kv[1][0].is_deleted()


def test_layouts_that_it_cannot_do(device):
    def layout(spec=SPEC, page_size=None):
        return device.allocator.layout(spec, budget=10**6, page_size=page_size, max_len=100, slots=3)

    assert layout().page_size == device.allocator.default_page_size
    with pytest.raises(NotSupported, match="no pages of 7 tokens; use 16"):
        layout(page_size=7)
    with pytest.raises(NotSupported, match="no KV is kept in float64; use float32, bfloat16, float16"):
        layout(KVSpec(SPEC.groups, "float64"))
    with pytest.raises(OutOfMemory, match="ask for fewer"):
        device.allocator.allocate(KVLayout(SPEC, 16, (2**40, 2), slots=2))
    memory = device.allocator.memory()
    assert 0 < memory.free <= memory.total


@pytest.mark.parametrize(
    ("exact", "padded"),
    [
        (Bucket(1, 1, 1, 1, True), Bucket(4, 4, 2, 4, True)),
        (Bucket(5, 5, 3, 5, True), Bucket(8, 8, 8, 8, True)),
        (Bucket(9, 5, 9, 1, False), Bucket(16, 16, 32, 16, False)),
        (Bucket(9, 3, 2, 2, False, 2), Bucket(16, 4, 2, 4, False, 2)),
        (Bucket(30, 3, 2, 20, False), Bucket(32, 4, 2, 32, False)),
    ],
)
def test_buckets(exact, padded):
    device = kit_device(Buckets(tokens=8, seqs=4, pages=2))
    assert device.bucket(exact) == padded
    assert device.bucket(padded) == padded
    assert device.bucket(padded) is not padded  # the same object would mean that nothing is kept for it
    device.close()


def test_buckets_do_not_grow_beyond_what_a_step_can_have():
    buckets = Buckets(tokens=8, seqs=4, pages=2)
    assert buckets.of(Bucket(9, 5, 9, 1, False), 10, 9) == Bucket(16, 12, 10, 12, False)
    assert buckets.of(Bucket(16, 12, 10, 12, False), 10, 9) == Bucket(16, 12, 10, 12, False)
    assert buckets.of(Bucket(16, 13, 11, 13, False), 10, 9) == Bucket(16, 16, 32, 16, False)  # asked for all the same
    assert buckets.of(Bucket(9, 5, 9, 1, False), 100, 100) == Bucket(16, 16, 32, 16, False)
    assert buckets.of(Bucket(9, 9, 2, 9, True), 9, 2) == Bucket(12, 12, 2, 12, True)


def test_the_pages_table_is_no_larger_than_the_layout_allows():
    device = kit_device()
    device.allocator.layout(SPEC, budget=10**6, page_size=16, max_len=500, slots=21)
    assert device.bucket(Bucket(40, 20, 30, 20, False)) == Bucket(64, 24, 32, 24, False)
    device.close()


def counting(device):
    """A step that samples token + 1 and counts up a page, and how often it was traced."""
    traces = []

    def step(weights, kv, state, batch):
        traces.append(batch.key)
        ids = device.ops.feed(batch, state)
        sampled, state = device.ops.sample(weights[ids + 1], batch, state)
        return sampled, kv + 1, state

    return step, traces


def run(device, step, key, weights, kv, state, token=0, feed=0):
    buffer = device.lend(words(key))
    assert not buffer.any()
    batch = view(buffer, key)
    batch.counts[:3] = 1
    batch.token_ids[0], batch.feed[0], batch.token_slot[0], batch.row_slot[0] = token, feed, 1, 1
    return device.compile(step, key)(weights, kv, state, buffer)


def test_a_step_takes_tokens_that_the_step_before_sampled(device):
    step, traces = counting(device)
    weights, kv, state = jax.device_put(np.eye(8, dtype=np.float32), HOST), jnp.zeros(3), device.state(2)
    pending, first = [], kv
    for feed in (0, 1, 1):
        result, kv, state = run(device, step, KEY, weights, kv, state, 3, feed)
        pending.append(result)
    results = [p.get() for p in pending]
    assert [r.tokens.tolist() for r in results] == [[4], [5], [6]]  # not overwritten by later steps
    assert isinstance(results[0].tokens, np.ndarray)
    assert results[0].logprob is None
    assert kv.tolist() == [3, 3, 3]
    assert first.is_deleted()  # donated
    assert len(traces) == 1


def test_expected_steps_are_compiled_together_and_others_refused(device, caplog):
    step, traces = counting(device)
    keys = [StepKey(Bucket(n, n, 1, n, True)) for n in (1, 2, 4)]
    weights, kv, state = jax.device_put(np.eye(8, dtype=np.float32), HOST), jnp.zeros(3), device.state(2)
    device.warm(keys)
    with caplog.at_level(logging.INFO, "anychip_sdk.kits.jax.programs"):
        for key in keys:
            result, kv, state = run(device, step, key, weights, kv, state)
            result.get()
    assert sorted(traces, key=str) == sorted(keys, key=str)
    assert "compiling 3 programs ahead" in caplog.text
    with compilations() as seen:
        for key in keys * 3:
            result, kv, state = run(device, step, key, weights, kv, state)
            assert result.get().tokens[0] == 1
    assert not seen
    with pytest.raises(DeviceError, match="none of the 3 shapes compiled at the start"):
        run(device, step, StepKey(Bucket(8, 8, 1, 8, True)), weights, kv, state)
    with caplog.at_level(logging.WARNING):
        result, kv, state = run(device, step, StepKey(keys[0].bucket, SampleKind(logprobs=2)), weights, kv, state)
        assert result.get().top_tokens.tolist() == [[1, 0]]
    assert "compiling a program for SampleKind(" in caplog.text


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (MemoryError("1 TiB"), OutOfMemory, "no memory for the step: 1 TiB"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 2 GiB\ntrace"), OutOfMemory, "RESOURCE_EXHAUSTED: 2 GiB$"),
        (jax.errors.JaxRuntimeError("INTERNAL: boom"), DeviceError, "^the step failed: INTERNAL: boom$"),
        (jax.errors.JaxRuntimeError(""), DeviceError, "the step failed: no message"),
    ],
    ids=str,
)
def test_a_failed_step_is_the_devices_error(device, error, raised, message):
    def step(weights, kv, state, batch):
        raise error

    with pytest.raises(raised, match=message):
        device.compile(step, KEY)(jnp.zeros(1), jnp.zeros(1), device.state(1), device.lend(words(KEY)))


def test_devices_share_programs_by_what_they_compute():
    like, ranks, kept = kit_device(), Ranks.of([HOST]), Kept()
    devices = [JaxDevice(like.info, like.capabilities, ranks, compiler=kept.compile) for _ in range(2)]
    weights = {name: jax.device_put(np.int32(value), HOST) for name, value in (("a", 7), ("b", 8))}

    def step(name):
        return lambda weights, kv, state, batch: (Sampled(batch.logit_rows + weights[name]), kv, state)

    def tokens(device, name):
        kv, state = jnp.zeros(3), device.state(2)
        return run(device, step(name), KEY, weights, kv, state)[0].get().tokens.tolist()

    assert tokens(devices[0], "a") == [7]
    with compilations() as seen:
        assert tokens(devices[1], "a") == [7]
    assert not seen
    assert tokens(devices[0], "b") == [8]  # as long a program, which reads another weight
    for device in devices:
        device.close()


def test_programs_go_with_their_step():
    like, made = kit_device(), []

    def compiler(lowered, options, devices):
        program = partial(compile_alone(lowered, options, devices))  # which a weak reference can be made to
        made.append(weakref.ref(program))
        return program

    device = JaxDevice(like.info, like.capabilities, Ranks.of([HOST]), compiler=compiler)
    step, _ = counting(device)
    weights, kv, state = jax.device_put(np.eye(8, dtype=np.float32), HOST), jnp.zeros(3), device.state(2)
    _, kv, state = run(device, step, KEY, weights, kv, state)
    run(device, step, KEY, weights, kv, state)
    gc.collect()
    assert [program() is None for program in made] == [False]
    del step
    gc.collect()
    assert [program() is None for program in made] == [True]
    device.close()


def test_a_step_that_could_not_be_compiled_is_tried_again(device):
    working, faults = counting(device)[0], [DeviceError("out of luck")]

    def step(*arguments):
        if faults:
            raise faults.pop()
        return working(*arguments)

    weights, kv, state = jax.device_put(np.eye(8, dtype=np.float32), HOST), jnp.zeros(3), device.state(2)
    with pytest.raises(DeviceError, match="out of luck"):
        run(device, step, KEY, weights, kv, state)
    assert run(device, step, KEY, weights, kv, state)[0].get().tokens.tolist() == [1]


def test_the_kit_needs_no_torch():
    code = "import anychip_sdk.kits.jax, sys; assert not {'torch', 'anychip'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
