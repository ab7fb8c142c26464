"""Weights that a checkpoint has in 16 bits, in products in float32: kept so, with the results of 32 bits bit by bit."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import pytest
import torch
from anychip_sdk.contract import ContractError, MoESpec, WeightSpec
from anychip_sdk.kits.torch.weights import Weight
from numpy_batches import ragged
from torch_cases import draw, on_device

LINEAR = WeightSpec((("w",),), "linear", bias=("b",))


def array(x):
    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


def packed(device, tensors, spec=LINEAR, dtype="float32"):
    """As a checkpoint has the tensors, in their dtypes."""
    arrays = {name: array(x) for name, x in tensors.items()}
    return device.pack(spec, lambda name, index=(): arrays[name][index], {n: a.shape for n, a in arrays.items()}, dtype)


@pytest.fixture(params=["bfloat16", "float16"])
def kept(request):
    return request.param


@pytest.fixture
def both(device, kept):
    """Packs tensors as they are, in `kept`, and in float32: the same numbers."""

    def pack(spec, **tensors):
        narrow = {name: x.to(getattr(torch, kept)) for name, x in tensors.items()}
        handles = [packed(device, part, spec) for part in (narrow, {name: x.float() for name, x in narrow.items()})]
        assert handles[0].tensor.dtype == getattr(torch, kept)
        assert handles[1].tensor.dtype == torch.float32
        return handles

    return pack


def weight(outputs, inputs, **more):
    return {"w": draw(outputs, inputs, seed=inputs), "b": draw(outputs, seed=outputs), **more}


@pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 31, 97, 200])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 5), (32, 64), (33, 65), (129, 100)])
def test_products(device, threads, both, rows, outputs, inputs):
    narrow, wide = both(LINEAR, **weight(outputs, inputs))
    x = draw(rows, inputs)
    assert torch.equal(device.ops.linear(x, narrow), device.ops.linear(x, wide))


@pytest.mark.parametrize("rows", [1, 5, 97])
@pytest.mark.parametrize("half", [32, 100])
def test_gated_products(device, threads, both, rows, half):
    spec = WeightSpec((("gate",), ("up",)), "linear")
    gates = both(spec, gate=draw(half, 33, seed=1), up=draw(half, 33, seed=2))
    downs = both(replace(LINEAR, bias=()), w=draw(40, half))
    x = draw(rows, 33)
    narrow, wide = (device.ops.gated_mlp(x, *pair, "silu") for pair in zip(gates, downs, strict=True))
    assert torch.equal(narrow, wide)


@pytest.mark.parametrize("scale", [1.0, 3.3])
@pytest.mark.parametrize("inputs", [12, 13])
def test_the_embedding_that_is_the_head_too(device, both, inputs, scale):
    narrow, wide = both(WeightSpec((("w",),), "embedding"), w=draw(50, inputs))
    ids = torch.tensor([0, 49, 31, 32, 7], dtype=torch.int32)
    rows = device.ops.embedding(ids, narrow, scale)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, device.ops.embedding(ids, wide, scale))
    assert torch.equal(device.ops.logits(rows, narrow), device.ops.logits(rows, wide))


@pytest.mark.parametrize("tokens", [1, 40])
def test_experts(device, both, tokens):
    spec = MoESpec(experts=5, top_k=2, renormalize=True, activation="silu")
    names = {part: tuple(f"{part}{e}" for e in range(5)) for part in ("gate", "up", "down")}
    inner = {name: draw(64, 24, seed=len(name) + int(name[-1])) for part in ("gate", "up") for name in names[part]}
    gates = both(WeightSpec((names["gate"], names["up"]), "experts"), **inner)
    downs = both(WeightSpec((names["down"],), "experts"), **{n: draw(24, 64, seed=int(n[-1])) for n in names["down"]})
    router = both(replace(LINEAR, bias=()), w=draw(5, 24))
    batch = on_device(device, ragged([(0, tokens)], [list(range(1, 2 + tokens))], 1))
    x = draw(tokens, 24)
    narrow, wide = (device.ops.moe(x, *three, spec, batch) for three in zip(router, gates, downs, strict=True))
    assert torch.equal(narrow, wide)


def test_numbers_at_the_ends_of_the_range(device, kept, both):
    """The smallest ones, which are subnormal, the largest, infinity and NaN."""
    kind = torch.finfo(getattr(torch, kept))
    ends = torch.tensor([kind.smallest_normal / 4, -kind.smallest_normal / 4, kind.max, kind.min, float("inf")])
    narrow, wide = both(replace(LINEAR, bias=()), w=torch.diag(ends))
    found = device.ops.linear(torch.eye(5), narrow).nan_to_num(7)  # zero times infinity
    assert torch.equal(found, device.ops.linear(torch.eye(5), wide).nan_to_num(7))
    assert found[0, 0] == kind.smallest_normal / 4


def test_what_was_stored(device, both):
    narrow, _ = both(LINEAR, **weight(33, 65))
    x = draw(3, 65)
    restored = device.restore(device.store(narrow))
    assert restored.widened
    assert torch.equal(device.ops.linear(x, restored), device.ops.linear(x, narrow))


def test_parts_of_different_kinds_are_packed_in_float32(device):
    parts = {"w": draw(32, 8).bfloat16(), "v": draw(32, 8).half()}
    assert packed(device, parts, WeightSpec((("w",), ("v",)), "linear")).tensor.dtype == torch.float32


def test_a_bias_in_float32_is_not_rounded(device):
    tensors = {"w": torch.zeros(32, 8).bfloat16(), "b": torch.full((32,), 1 + 2.0**-20)}
    assert torch.equal(device.ops.linear(draw(1, 8), packed(device, tensors))[0], tensors["b"])


def test_what_an_offset_is_added_to_is_packed_in_float32(device):
    """The sum may need more bits than 16."""
    tensors = {"w": torch.full((32, 8), 2.0**-12).bfloat16()}
    w = packed(device, tensors, WeightSpec((("w",),), "linear", offset=1.0))
    assert device.ops.linear(torch.eye(8), w)[0, 0] == 1 + 2.0**-12


def test_norms_stay_float32(device):
    assert packed(device, {"w": draw(8).bfloat16()}, WeightSpec((("w",),), "norm")).tensor.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_round_as_ever(device, kept, dtype):
    w = packed(device, {name: x.to(getattr(torch, kept)) for name, x in weight(33, 8).items()}, dtype=dtype)
    assert (w.tensor.dtype, w.widened) == (getattr(torch, dtype), False)


def test_a_missing_tensor_is_named(device):
    with pytest.raises(ContractError, match="no tensor 'b'"):
        packed(device, {"w": draw(8, 8).bfloat16()})


def test_a_weight_of_the_ops_own_making(device):
    """`_pack` alone takes a weight's dtype for that of its products."""
    w = device.ops._pack(Weight(draw(33, 8).bfloat16(), (33,)), embedding=False)
    assert device.ops.linear(draw(2, 8).bfloat16(), w).dtype == torch.bfloat16
