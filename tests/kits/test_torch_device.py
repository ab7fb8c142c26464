"""The torch device: weights, pages and steps."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from anychip_sdk.contract import (
    Bucket,
    ContractError,
    DeviceError,
    KVLayout,
    KVSpec,
    NotSupported,
    OutOfMemory,
    Paged,
    Sampled,
    StepKey,
    WeightSpec,
    view,
    words,
)  # fmt: skip
from anychip_sdk.kits.torch.allocator import ALIGNED
from anychip_sdk.kits.torch.weights import pack
from torch_cases import kit_device

KEY = StepKey(Bucket(1, 1, 1, 1, True))
DEVICE = kit_device()
TENSORS = {
    "q": np.arange(12, dtype=np.float32).reshape(4, 3),
    "k": np.arange(6, dtype=np.float16).reshape(2, 3),
    "v": -np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "wide": np.zeros((2, 5), np.float32),
    "q.bias": np.arange(4, dtype=np.float32),
    "k.bias": np.arange(2, dtype=np.float32) + 10,
    "norm": np.array([0.5, -1.0]).astype(ml_dtypes.bfloat16),
    "head": np.arange(10, dtype=np.float32).reshape(5, 2),
    "head.bias": np.arange(5, dtype=np.float32),
}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}


def read(name, index=()):
    return TENSORS[name][index]


def shard(spec, rank, size, reads=read):
    return pack(spec, reads, SHAPES, "float32", torch.device("cpu"), rank, size)


def test_parts_are_joined_and_keep_their_sizes():
    w = DEVICE.pack(WeightSpec((("q",), ("k",), ("v",)), "linear"), read, SHAPES, "bfloat16")
    assert w.sizes == (4, 2, 2)
    assert w.tensor.dtype == torch.bfloat16
    assert w.tensor.float().tolist() == np.concatenate([TENSORS[n].astype(np.float32) for n in "qkv"]).tolist()


def test_what_is_packed_does_not_change_with_the_source():
    w = DEVICE.pack(WeightSpec((("wide",),), "linear"), read, SHAPES, "float32")
    norm = DEVICE.pack(WeightSpec((("norm",),), "norm", offset=1.0), read, SHAPES, "float16")
    assert norm.tensor.tolist() == [1.5, 0.0]
    assert norm.tensor.dtype == torch.float32
    w.tensor += 1
    assert not TENSORS["wide"].any()


def test_shards_read_only_their_slices():
    asked = []

    def spy(name, index=()):
        asked.append((name, tuple((s.start, s.stop) for s in index)))
        return read(name, index)

    w = shard(WeightSpec((("q",), ("k",)), "linear", tp="out", bias=("q.bias", "k.bias")), 1, 2, spy)
    assert w.tensor.tolist() == [[6, 7, 8], [9, 10, 11], [3, 4, 5]]
    assert (w.sizes, w.bias.tolist()) == ((2, 1), [2, 3, 11])
    assert asked == [("q", ((2, 4),)), ("k", ((1, 2),)), ("q.bias", ((2, 4),)), ("k.bias", ((1, 2),))]
    asked.clear()
    assert shard(WeightSpec((("head",),), "linear", tp="in"), 1, 2, spy).tensor.tolist() == [[1], [3], [5], [7], [9]]
    assert shard(WeightSpec((("head",),), "linear", tp="in"), 1, 2).summed
    assert asked == [("head", ((0, 5), (1, 2)))]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_head_is_padded_to_equal_shards(size):
    spec = WeightSpec((("head",),), "linear", tp="out", bias=("head.bias",))
    shards = [shard(spec, rank, size) for rank in range(size)]
    assert len({w.tensor.shape for w in shards}) == 1
    whole = torch.cat([w.tensor for w in shards])
    assert whole[:5].tolist() == TENSORS["head"].tolist()
    assert not whole[5:].any()
    assert torch.cat([w.bias for w in shards])[:5].tolist() == [0, 1, 2, 3, 4]
    assert {w.vocabulary for w in shards} == {5}
    with pytest.raises(ContractError, match="5 outputs do not divide by"):
        DEVICE.ops.linear(torch.zeros(1, 2), shards[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (WeightSpec((("gone",),), "linear"), "no tensor 'gone', which a weight of kind linear needs"),
        (WeightSpec((("q",),), "linear", bias=("gone",)), "no tensor 'gone'"),
        (WeightSpec((), "norm"), "kind norm names no tensor"),
        (WeightSpec((("q",), ("wide",)), "linear"), r"'q' \[4, 3\] and 'wide' \[2, 5\] cannot be parts"),
        (WeightSpec((("q",),), "linear", bias=("k.bias",)), r"the bias of 'q' \[4, 3\] needs \[4\]"),
        (WeightSpec((("q",), ("k",)), "linear", bias=("q.bias",)), "2 parts have 1 biases"),
        (WeightSpec((("q", "k"),), "experts"), "tensors of one stack differ in shape"),
    ],
    ids=str,
)
def test_shapes_that_make_no_weight(spec, message):
    with pytest.raises(ContractError, match=message):
        DEVICE.pack(spec, read, SHAPES, "float32")


def test_what_does_not_divide_or_is_not_claimed_is_refused():
    with pytest.raises(ContractError, match="wide has 5 entries, which 2 ranks do not divide"):
        shard(WeightSpec((("wide",),), "linear", tp="in"), 0, 2)
    with pytest.raises(NotSupported, match="torch has no float64; use float32, bfloat16, float16"):
        DEVICE.pack(WeightSpec((("q",),), "linear"), read, SHAPES, "float64")


def test_a_step_takes_tokens_that_the_step_before_sampled():
    def step(weights, kv, state, batch):
        ids = DEVICE.ops.feed(batch, state).long()
        sampled, state = DEVICE.ops.sample(torch.eye(8)[ids + 1], batch, state)
        return sampled, kv, state

    state, kv, pending = DEVICE.state(2), [], []
    assert state.last_token.tolist() == [0, 0]
    for feed in (0, 1, 1):
        buffer = DEVICE.lend(words(KEY))
        assert not buffer.any()
        batch = view(buffer, KEY)
        batch.token_ids[0], batch.feed[0], batch.token_slot[0], batch.row_slot[0] = 3, feed, 1, 1
        result, kv, state = DEVICE.compile(step, KEY)(None, kv, state, buffer)
        pending.append(result)
    results = [p.get() for p in pending]
    assert [r.tokens.tolist() for r in results] == [[4], [5], [6]]  # not overwritten by later steps
    assert isinstance(results[0].tokens, np.ndarray)
    assert results[0].logprob is None
    assert DEVICE.bucket(KEY.bucket) is KEY.bucket
    DEVICE.close()


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (MemoryError("1 TiB"), OutOfMemory, "no memory for the step: 1 TiB"),
        (torch.OutOfMemoryError("2 GiB"), OutOfMemory, "no memory for the step: 2 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), OutOfMemory, "no memory for the step"),
        (RuntimeError("boom\nand a trace"), DeviceError, "^the step failed: boom$"),
        (IndexError("index 9 is out of bounds"), DeviceError, "the step failed: index 9"),
        (ValueError(""), DeviceError, "the step failed: no message"),
    ],
    ids=str,
)
def test_a_failed_step_is_the_devices_error(error, raised, message):
    def step(weights, kv, state, batch):
        raise error

    with pytest.raises(raised, match=message):
        DEVICE.compile(step, KEY)(None, [], DEVICE.state(1), DEVICE.lend(words(KEY)))


def test_a_token_outside_the_vocabulary_is_the_devices_error():
    table = DEVICE.pack(WeightSpec((("q",),), "embedding"), read, SHAPES, "float32")

    def step(weights, kv, state, batch):
        return Sampled(DEVICE.ops.embedding(batch.token_ids, table)), kv, state

    buffer = DEVICE.lend(words(KEY))
    view(buffer, KEY).token_ids[0] = 4
    with pytest.raises(DeviceError, match="the step failed"):
        DEVICE.compile(step, KEY)(None, [], DEVICE.state(1), buffer)


SPEC = KVSpec((Paged(layers=2, kv_heads=3, k_dim=4, v_dim=2), Paged(layers=1, kv_heads=1, k_dim=4, v_dim=4)), "float16")


def test_pages_are_made_copied_and_given_back():
    kv = DEVICE.allocator.allocate(KVLayout(SPEC, 8, (5, 3), slots=2))
    keys, values = kv[0]
    assert [t.shape for t in (*keys, *values)] == [(5, 3, 8, 4)] * 2 + [(5, 3, 8, 2)] * 2
    assert keys[0].dtype == torch.float16
    assert not any(t.any() for group in kv for cache in group for t in cache)
    assert all(t.data_ptr() % ALIGNED == 0 for group in kv for cache in group for t in cache)
    for i, cache in enumerate((*keys, *values)):
        cache[1:] = torch.arange(10 * i + 1, 10 * i + 5)[:, None, None, None]
    same = DEVICE.allocator.copy_pages(kv, 0, np.array([1, 4], np.int32), np.array([3, 2], np.int32))
    assert same is kv
    for i, cache in enumerate((*keys, *values)):
        assert cache[:, 0, 0, 0].tolist() == [0, 10 * i + 1, 10 * i + 4, 10 * i + 1, 10 * i + 4]
    assert not kv[1][0][0].any()
    DEVICE.allocator.free(kv)
    assert kv == []


def test_layouts():
    layout = DEVICE.allocator.layout(SPEC, budget=10**6, page_size=None, max_len=100, slots=3)
    assert layout.page_size == DEVICE.allocator.default_page_size
    assert layout.pages == (1 + 2 * 7, 1 + 2 * 7)
    with pytest.raises(NotSupported, match="no pages of 12 tokens; use 16"):
        DEVICE.allocator.layout(SPEC, budget=10**6, page_size=12, max_len=100, slots=3)
    with pytest.raises(OutOfMemory):
        DEVICE.allocator.layout(SPEC, budget=10, page_size=16, max_len=100, slots=3)
    with pytest.raises(OutOfMemory, match=r"KV pages: .*; ask for fewer"):
        DEVICE.allocator.allocate(KVLayout(SPEC, 16, (2**50, 2**50), slots=3))
    memory = DEVICE.allocator.memory()
    assert 0 < memory.free <= memory.total
