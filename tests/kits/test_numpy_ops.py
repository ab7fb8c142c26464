"""Each op of the numpy kit against a formula written another way."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from anychip_sdk.contract import Bucket, ContractError, Layer, MoESpec, StepKey
from anychip_sdk.kits.numpy import NumpyOps, Weight
from numpy_batches import empty_batch

OPS = NumpyOps()
DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


def draw(*shape: int, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def close(got: np.ndarray, wanted: np.ndarray, dtype: str = "float64") -> None:
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_scales_by_the_rounded_scale(dtype):
    table = draw(5, 4, dtype=dtype)
    got = OPS.embedding(np.array([3, 0, 3], np.int32), Weight("embedding", (table,)), math.sqrt(7))
    close(got, np.stack([table[3], table[0], table[3]]) * np.dtype(dtype).type(math.sqrt(7)), dtype)


def test_take_and_zeros_like():
    x = draw(4, 3)
    assert np.array_equal(OPS.take(x, np.array([2, 2, 0], np.int32)), np.stack([x[2], x[2], x[0]]))
    assert np.array_equal(OPS.zeros_like(x), np.zeros((4, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_linear_and_its_parts(dtype, bias):
    x, parts = draw(3, 6, dtype=dtype), (draw(4, 6, dtype=dtype), draw(2, 6, dtype=dtype))
    biases = (draw(4, dtype=dtype), draw(2, dtype=dtype)) if bias else ()
    w = Weight("linear", parts, biases)
    wanted = []
    for p, part in enumerate(parts):
        y = np.array([[sum(float(a) * float(b) for a, b in zip(row, out, strict=True)) for out in part] for row in x])
        wanted.append(y + biases[p] if bias else y)
    for got, y in zip(OPS.linear_split(x, w), wanted, strict=True):
        close(got, y, dtype)
    close(OPS.linear(x, w), np.concatenate(wanted, axis=1), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 8)])
def test_rms_norm_over_the_last_axis(dtype, shape):
    x, w = draw(*shape, dtype=dtype), draw(8, dtype=dtype, seed=1)
    wanted = np.empty(shape)
    for at in np.ndindex(shape[:-1]):
        root = math.sqrt(sum(float(a) ** 2 for a in x[at]) / 8 + 1e-3)
        wanted[at] = [float(a) / root * float(b) for a, b in zip(x[at], w, strict=True)]
    close(OPS.rms_norm(x, Weight("norm", (w,)), 1e-3), wanted, dtype)


def test_add_rms_norm_returns_the_sum_too():
    x, residual, w = draw(3, 8), draw(3, 8, seed=1), Weight("norm", (draw(8),))
    y, total = OPS.add_rms_norm(x, residual, w, 1e-6)
    assert np.array_equal(total, x + residual)
    assert np.array_equal(y, OPS.rms_norm(x + residual, w, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_is_a_turn_in_the_complex_plane(dtype):
    x, frequencies = draw(3, 2, 8, dtype=dtype), np.array([1, 0.3, 0.1, 0.01], dtype)
    positions = np.array([0, 5, 17], np.int32)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * positions[:, None, None] * frequencies.astype("float64"))
    angles = OPS.rope_angles(positions, Weight("rope", (frequencies,)))
    close(OPS.rope(x, angles), np.concatenate([turned.real, turned.imag], axis=-1), dtype)
    assert np.array_equal(OPS.rope(x, angles)[0], x[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(dtype):
    gate, up = draw(4, 5, dtype=dtype) * 3, draw(4, 5, dtype=dtype, seed=1)
    silu = np.vectorize(lambda g: g / (1 + math.exp(-g)))(gate.astype("float64"))
    inner = math.sqrt(2 / math.pi) * (gate.astype("float64") + 0.044715 * gate.astype("float64") ** 3)
    close(OPS.gated_activation(gate, up, "silu"), silu * up, dtype)
    close(OPS.gated_activation(gate, up, "gelu_tanh"), gate * (1 + np.tanh(inner)) / 2 * up, dtype)


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
def test_activations_at_the_ends_of_the_range(kind):
    gate = np.array([[-1e4, 0, 1e4]], np.float32)
    assert OPS.gated_activation(gate, np.ones_like(gate), kind).tolist() == [[0, 0, 1e4]]


def test_gated_mlp():
    x, gate, up, down = draw(2, 4), draw(6, 4), draw(6, 4, seed=1), draw(4, 6)
    g = x @ gate.T
    wanted = (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T
    close(OPS.gated_mlp(x, Weight("linear", (gate, up)), Weight("linear", (down,)), "silu"), wanted)


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_moe_sums_the_chosen_experts_and_skips_padding(renormalize, dtype):
    X, M, E, T = 5, 6, 4, 3  # experts, width of each, hidden, tokens
    x, router = draw(T + 2, E, dtype=dtype), draw(X, E, dtype=dtype)
    gate, up, down = draw(X, M, E, dtype=dtype), draw(X, M, E, dtype=dtype, seed=1), draw(X, E, M, dtype=dtype)
    x[T:] = np.nan  # padding
    batch = empty_batch(StepKey(Bucket(T + 2, 1, 1, 1, False)))
    batch.counts[0] = T
    scores = np.exp(x[:T] @ router.T)
    p = scores / scores.sum(-1, keepdims=True)
    p[p < np.sort(p, axis=-1)[:, -2:-1]] = 0  # all but the best two
    if renormalize:
        p /= p.sum(-1, keepdims=True)
    g = np.einsum("te,xie->txi", x[:T], gate)
    every = np.einsum("txi,xei->txe", g / (1 + np.exp(-g)) * np.einsum("te,xie->txi", x[:T], up), down)
    got = OPS.moe(
        x,
        Weight("linear", (router,)),
        Weight("experts", (gate, up)),
        Weight("experts", (down,)),
        MoESpec(experts=X, top_k=2, renormalize=renormalize, activation="silu"),
        batch,
    )
    assert got.dtype == dtype
    np.testing.assert_allclose(got[:T], np.einsum("tx,txe->te", p, every), rtol=1e-4 if dtype == "float32" else 1e-11)
    assert not got[T:].any()


def test_moe_ties_go_to_the_lower_expert():
    x = np.ones((1, 1))
    batch = empty_batch(StepKey(Bucket(1, 1, 1, 1, False)))
    batch.counts[0] = 1
    experts = np.arange(1.0, 5).reshape(4, 1, 1)
    spec = MoESpec(experts=4, top_k=2, renormalize=True, activation="gelu_tanh")
    got = OPS.moe(
        x, Weight("linear", (np.zeros((4, 1)),)), Weight("experts", (np.full((4, 1, 1), 20.0), np.ones((4, 1, 1)))),
        Weight("experts", (experts,)), spec, batch,
    )  # fmt: skip
    assert got[0, 0] == pytest.approx(20 * (1 + 2) / 2)  # experts 0 and 1


@pytest.mark.parametrize("kind", ["linear", "embedding"])
def test_logits_of_a_head_or_of_the_tied_embedding(kind):
    x, w = draw(2, 4), draw(7, 4)
    close(OPS.logits(x, Weight(kind, (w,))), x @ w.T, "float32")
    close(OPS.logits(x, Weight(kind, (w,)), 5.0), 5 * np.tanh(x @ w.T / 5), "float32")


def test_feed_takes_marked_tokens_from_the_state():
    batch = empty_batch(StepKey(Bucket(4, 4, 1, 4, True)))
    batch.token_ids[:], batch.feed[:], batch.token_slot[:] = [10, 11, 12, 0], [0, 1, 1, 0], [1, 2, 3, 0]
    got = OPS.feed(batch, SimpleNamespace(last_token=np.array([90, 91, 92, 93], np.int32)))
    assert got.tolist() == [10, 92, 93, 0]
    assert got.dtype == np.int32


def test_layers_carries_from_block_to_block():
    def block(layer, w, x):
        return (x * w + layer.kv_index,)

    specs = [Layer(None, i) for i in range(3)]
    assert OPS.layers(block, specs, [2, 3, 4], (1,)) == (((1 * 2 + 0) * 3 + 1) * 4 + 2,)


def test_every_op_takes_no_tokens():
    nothing, ids = np.zeros((0, 4)), np.zeros(0, np.int32)
    linear, norm = Weight("linear", (draw(4, 4),)), Weight("norm", (draw(4),))
    angles = OPS.rope_angles(ids, Weight("rope", (np.ones(2),)))
    batch = empty_batch(StepKey(Bucket(0, 0, 0, 0, False)))
    experts = Weight("experts", (draw(2, 4, 4), draw(2, 4, 4)))
    spec = MoESpec(experts=2, top_k=1, renormalize=True, activation="silu")
    results = [
        OPS.embedding(ids, Weight("embedding", (draw(4, 4),))),
        OPS.take(draw(3, 4), ids),
        OPS.linear(nothing, linear),
        OPS.rms_norm(nothing, norm, 1e-6),
        OPS.gated_activation(nothing, nothing, "silu"),
        OPS.moe(nothing, Weight("linear", (draw(2, 4),)), experts, Weight("experts", (draw(2, 4, 4),)), spec, batch),
        OPS.logits(nothing, linear),
    ]
    assert {r.shape for r in results} == {(0, 4)}
    assert OPS.rope(np.zeros((0, 2, 4)), angles).shape == (0, 2, 4)
    assert OPS.feed(batch, SimpleNamespace(last_token=np.zeros(1, np.int32))).shape == (0,)


def test_a_handle_of_the_wrong_kind_is_refused():
    with pytest.raises(ContractError, match="takes a weight of kind embedding, not linear"):
        OPS.embedding(np.zeros(1, np.int32), Weight("linear", (draw(4, 4),)))
    with pytest.raises(ContractError, match="takes a weight of kind norm, not vector"):
        OPS.rms_norm(draw(2, 4), Weight("vector", (draw(4),)), 1e-6)
