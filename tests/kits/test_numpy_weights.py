"""`pack` of the device `numpy`: every kind of weight, and its refusals."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from anychip_sdk.contract import ContractError, NotSupported, WeightSpec
from anychip_sdk.kits.numpy.platform import NumpyPlatform

TENSORS = {
    "q": np.arange(12, dtype=np.float32).reshape(4, 3),
    "k": np.arange(6, dtype=np.float16).reshape(2, 3),
    "v": -np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "wide": np.zeros((2, 5), np.float32),
    "q.bias": np.arange(4, dtype=np.float32),
    "k.bias": np.arange(2, dtype=np.float32) + 10,
    "norm": np.array([0.5, -1.0, 0.25]).astype(ml_dtypes.bfloat16),
    **{f"{e}.{name}": np.full((2, 3), 10 * e + i, np.float32) for e in range(3) for i, name in enumerate(("w1", "w3"))},
    **{f"{e}.w2": np.full((3, 2), e, np.float32) for e in range(3)},
}
SHAPES = {name: tensor.shape for name, tensor in TENSORS.items()}
DEVICE = NumpyPlatform().open()


def read(name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
    return TENSORS[name][index]


def pack(spec: WeightSpec, dtype="float32"):
    return DEVICE.pack(spec, read, SHAPES, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_keeps_its_parts_and_biases_in_order(dtype):
    w = pack(WeightSpec((("q",), ("k",), ("v",)), "linear", tp="out"), dtype)
    assert w.kind == "linear"
    assert w.bias == ()
    for part, name in zip(w.parts, "qkv", strict=True):
        assert part.dtype == dtype
        assert np.array_equal(part, TENSORS[name].astype(dtype))
    w = pack(WeightSpec((("q",), ("k",)), "linear", bias=("q.bias", "k.bias")), dtype)
    assert [b.tolist() for b in w.bias] == [[0, 1, 2, 3], [10, 11]]
    x = np.ones((1, 3), dtype)
    assert DEVICE.ops.linear(x, w).tolist() == [[3, 13, 23, 33, 13, 23]]


@pytest.mark.parametrize("kind", ["norm", "vector"])
def test_an_offset_is_added_after_the_conversion(kind):
    w = pack(WeightSpec((("norm",),), kind, offset=1.0))
    assert w.parts[0].tolist() == [1.5, 0.0, 1.25]
    assert w.parts[0].dtype == np.float32


def test_embedding():
    w = pack(WeightSpec((("q",),), "embedding"), "float64")
    assert np.array_equal(w.only("embedding"), TENSORS["q"])


def test_experts_are_stacked_by_part():
    w = pack(WeightSpec((tuple(f"{e}.w1" for e in range(3)), tuple(f"{e}.w3" for e in range(3))), "experts", tp="out"))
    assert [p.shape for p in w.parts] == [(3, 2, 3), (3, 2, 3)]
    assert [p[:, 0, 0].tolist() for p in w.parts] == [[0, 10, 20], [1, 11, 21]]
    assert pack(WeightSpec((("0.w2",),), "experts", tp="in")).parts[0].shape == (1, 3, 2)


def test_rope_comes_from_the_spec():
    w = pack(WeightSpec((), "rope", const=np.array([1, 0.1], np.float32)), "float64")
    assert w.only("rope").dtype == np.float64


def test_what_is_packed_does_not_change_with_the_source():
    w = pack(WeightSpec((("wide",),), "linear"))
    TENSORS["wide"][0, 0] = 7
    assert w.parts[0][0, 0] == 0
    TENSORS["wide"][0, 0] = 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(NotSupported, match=f"numpy does not compute in {dtype}; use float32 or float64"):
        pack(WeightSpec((("q",),), "linear"), dtype)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (WeightSpec((("gone",),), "linear"), "no tensor 'gone', which a weight of kind linear needs"),
        (WeightSpec((("q",),), "linear", bias=("gone",)), "no tensor 'gone'"),
        (WeightSpec((), "norm"), "kind norm names no tensor"),
        (WeightSpec((("q",), ("wide",)), "linear"), r"'q' \[4, 3\] and 'wide' \[2, 5\] cannot be parts"),
        (WeightSpec((("norm",),), "linear"), r"'norm' has shape \[3\]; kind linear needs 2 axes"),
        (WeightSpec((("q",),), "norm"), r"'q' has shape \[4, 3\]; kind norm needs 1 axes"),
        (WeightSpec((("q",), ("k",)), "embedding"), "kind embedding has 2 parts; only linear and experts can"),
        (WeightSpec((("q",), ("k",)), "linear", bias=("q.bias",)), "2 parts have 1 biases"),
        (
            WeightSpec((("q",),), "linear", bias=("k.bias",)),
            r"'k.bias' has shape \[2\]; the bias of 'q' .* needs \[4\]",
        ),
        (WeightSpec((("0.w1", "q"),), "experts"), "tensors of one stack differ in shape"),
        (WeightSpec((("0.w1", "1.w1"), ("0.w3",)), "experts"), r"stack \[2, 1\] tensors"),
    ],
    ids=str,
)
def test_shapes_that_make_no_weight(spec, message):
    with pytest.raises(ContractError, match=message):
        pack(spec)


def test_experts_may_differ_in_dtype():
    kinds = (np.float32, np.float16, ml_dtypes.bfloat16)
    mixed = {f"{e}": np.full((2, 3), e + 0.5, kind) for e, kind in enumerate(kinds)}
    spec = WeightSpec((tuple(mixed),), "experts")
    w = DEVICE.pack(spec, lambda name, index: mixed[name][index], {n: a.shape for n, a in mixed.items()}, "float32")
    assert [part[0, 0] for part in w.parts[0]] == [0.5, 1.5, 2.5]
