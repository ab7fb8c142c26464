"""Ops, one by one, against the float64 oracle: every dtype that the device declares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.areas.conftest import Lab
from anychip_sdk.conformance.inputs import Given, experts, linear, norm, rope, table
from anychip_sdk.conformance.lab import Array, Body, Trio
from anychip_sdk.conformance.marks import check, full
from anychip_sdk.conformance.numerics import EPS, rounded
from anychip_sdk.conformance.under_test import UnderTest
from anychip_sdk.contract import (
    QUANT_FORMATS,
    Activation,
    ContractError,
    DType,
    MoESpec,
    NotSupported,
    Version,
    WeightSpec,
)

ALL_DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16", "float64")


def rows_of(name: str) -> Any:
    """An array of a step: the rows of table `name` that the token ids pick."""
    return lambda ops, w, batch: ops.embedding(batch.token_ids, w[name])


X = rows_of("x")


@check(since="1.0", level="bronze")
def test_values_pass_through_unchanged(lab: Lab, dtype: DType) -> None:
    """An embedding, `take`, and a product with the identity: exact in any dtype. Every other check leans on it."""
    x = lab.draw.normal("x", 9, 40, dtype=dtype)
    trio = lab.trio(dtype, {"x": table(x)})
    got = trio.device.run(lambda ops, w, batch, kv: (X(ops, w, batch), kv), batches.rows(9), 40)
    assert np.array_equal(got, x.astype(np.float32)), (
        f"embedding, take and logits changed the values of {dtype} rows multiplied by the identity"
    )


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("scale", [1.0, 8.0, 26.3])
def test_embedding(lab: Lab, dtype: DType, scale: float) -> None:
    x = lab.draw.normal("x", 11, 48, dtype=dtype)
    trio = lab.trio(dtype, {"x": table(x)})
    batch = batches.rows(7, ids=[3, 0, 10, 3, 9, 1, 10])
    lab.check(trio, lambda ops, w, batch, kv: (ops.embedding(batch.token_ids, w["x"], scale), kv), batch, 48)


@check(since="1.0", level="bronze")
def test_take_and_zeros(lab: Lab, dtype: DType) -> None:
    x = lab.draw.normal("x", 6, 32, dtype=dtype)
    trio = lab.trio(dtype, {"x": table(x)})
    batch = batches.rows(6)
    batch.logit_rows[:] = (5, 0, 0, 3, 2, 5)
    lab.check(trio, lambda ops, w, batch, kv: (X(ops, w, batch), kv), batch, 32, "take")
    zeros = trio.device.run(lambda ops, w, batch, kv: (ops.zeros_like(X(ops, w, batch)), kv), batch, 32)
    assert not zeros.any(), "zeros_like gave something else than zeros"


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("tokens", [1, 3, 17, full(64), full(129)])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (33, 50), full(512, 128)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(lab: Lab, dtype: DType, tokens: int, inputs: int, outputs: int, bias: bool) -> None:
    x = lab.draw.normal("x", tokens, inputs, dtype=dtype)
    w = lab.draw.normal("w", outputs, inputs, dtype=dtype, scale=inputs**-0.5)
    b = (lab.draw.normal("b", outputs, dtype=dtype),) if bias else ()
    trio = lab.trio(dtype, {"x": table(x), "w": linear(w, bias=b)})
    lab.check(trio, lambda ops, w, batch, kv: (ops.linear(X(ops, w, batch), w["w"]), kv), batches.rows(tokens), outputs)


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("bias", [False, True])
def test_linear_split(lab: Lab, dtype: DType, bias: bool) -> None:
    """Parts of different sizes, as q, k and v are."""
    sizes, x = (48, 16, 32), lab.draw.normal("x", 5, 40, dtype=dtype)
    parts = [lab.draw.normal(f"w{i}", n, 40, dtype=dtype, scale=0.2) for i, n in enumerate(sizes)]
    b = tuple(lab.draw.normal(f"b{i}", n, dtype=dtype) for i, n in enumerate(sizes)) if bias else ()
    trio = lab.trio(dtype, {"x": table(x), "w": linear(*parts, bias=b)})

    def part(i: int) -> Body:
        return lambda ops, w, batch, kv: (ops.linear_split(X(ops, w, batch), w["w"])[i], kv)

    for i, n in enumerate(sizes):
        lab.check(trio, part(i), batches.rows(5), n, f"part {i}")


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("scale", [1.0, 1e-3, full(100.0)])
def test_rms_norm(lab: Lab, dtype: DType, eps: float, scale: float) -> None:
    """A large eps, and small values, tell eps inside the root from eps outside, and a forgotten one."""
    x = lab.draw.normal("x", 7, 72, dtype=dtype, scale=scale)
    w = lab.draw.normal("w", 72)
    trio = lab.trio(dtype, {"x": table(x), "w": norm(w), "offset": norm(w, offset=1.0)})

    def normed(name: str) -> Body:
        return lambda ops, w, batch, kv: (ops.rms_norm(X(ops, w, batch), w[name], eps), kv)

    for name in ("w", "offset"):
        lab.check(trio, normed(name), batches.rows(7), 72, name)


@check(since="1.0", level="bronze")
def test_add_rms_norm(lab: Lab, dtype: DType) -> None:
    """Both results: the normed sum, and the sum that goes on as residual."""
    x, h = lab.draw.normal("x", 7, 64, dtype=dtype), lab.draw.normal("h", 7, 64, dtype=dtype, scale=4)
    trio = lab.trio(dtype, {"x": table(x), "h": table(h), "w": norm(lab.draw.normal("w", 64))})
    residual = rows_of("h")

    def result(i: int) -> Body:
        return lambda ops, w, batch, kv: (
            ops.add_rms_norm(X(ops, w, batch), residual(ops, w, batch), w["w"], 1e-5)[i],
            kv,
        )

    for i, what in enumerate(("the normed sum", "the residual")):
        lab.check(trio, result(i), batches.rows(7), 64, what)


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
def test_gated_activation(lab: Lab, dtype: DType, kind: Activation) -> None:
    """Values up to where exp overflows in float16."""
    x = lab.draw.normal("x", 6, 64, dtype=dtype, scale=6)
    x[0, :4] = (-30, 30, 0, -12)
    trio = lab.trio(dtype, {"x": table(x), "u": table(lab.draw.normal("u", 6, 64, dtype=dtype))})
    up = rows_of("u")
    lab.check(
        trio,
        lambda ops, w, batch, kv: (ops.gated_activation(X(ops, w, batch), up(ops, w, batch), kind), kv),
        batches.rows(6), 64,
    )  # fmt: skip


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
def test_gated_mlp(lab: Lab, dtype: DType, kind: Activation) -> None:
    x = lab.draw.normal("x", 6, 48, dtype=dtype)
    gate, up = (lab.draw.normal(n, 80, 48, dtype=dtype, scale=0.2) for n in ("gate", "up"))
    down = lab.draw.normal("down", 48, 80, dtype=dtype, scale=0.1)
    trio = lab.trio(dtype, {"x": table(x), "gate_up": linear(gate, up), "down": linear(down)})
    lab.check(
        trio,
        lambda ops, w, batch, kv: (ops.gated_mlp(X(ops, w, batch), w["gate_up"], w["down"], kind), kv),
        batches.rows(6), 48,
    )  # fmt: skip


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("cap", [None, 2.0, 30.0])
def test_logits(lab: Lab, dtype: DType, cap: float | None) -> None:
    x = lab.draw.normal("x", 5, 64, dtype=dtype)
    head, few = lab.draw.normal("head", 131, 64, dtype=dtype, scale=0.5), cap is None
    trio = lab.trio(dtype, {"x": table(x), "head": linear(head, head=few), "tied": table(head, head=few)})

    def logits(name: str) -> Body:
        return lambda ops, w, batch, kv: (ops.logits(X(ops, w, batch), w[name], cap), kv)

    for name in ("head", "tied"):
        lab.check(trio, logits(name), _wide(5, 131), what=name)


@check(since="1.7", level="bronze")
@pytest.mark.parametrize(("inputs", "width"), [(64, 131), (200, 1003)])
def test_greedy_logits(lab: Lab, dtype: DType, inputs: int, width: int) -> None:
    """Beside the device's own logits: the largest of each row where they have it, ties included, and no other so large.
    Of many rows and of few."""
    x, head = _for_greedy(lab, dtype, inputs, width)
    trio = lab.trio(dtype, {"x": table(x), "head": linear(head, head=True), "tied": table(head, head=True)})
    for name in ("head", "tied"):
        _greedy_is_logits(trio, name, width)


@check(since="1.7", profile="quant")
def test_greedy_logits_of_a_quantised_head(lab: Lab, dtype: DType, quantised: str) -> None:
    x, head = _for_greedy(lab, dtype, 256, 1003)
    tied = table(head, quantised, head=True)
    trio = lab.trio(dtype, {"x": table(x), "head": linear(head, quantize=quantised, head=True), "tied": tied})
    for name in ("head", "tied"):
        _greedy_is_logits(trio, name, 1003)


def _for_greedy(lab: Lab, dtype: DType, inputs: int, width: int) -> tuple[Array, Array]:
    """x: [7, inputs] and a head. The fifth row is zeros, so that all logits are as large, and the last has no
    numbers."""
    x = lab.draw.normal("x", 7, inputs, dtype=dtype)
    head = lab.draw.normal("head", width, inputs, dtype=dtype, scale=0.5)
    head[[5, width - 1]] = head[40] = 4 * x[1]  # of a product with itself three outputs are the largest
    x[2] *= 1e-3
    x[3, inputs // 2] = 60.0  # one large number, beside which few bits are left of the others
    x[4], x[6, 3] = 0, np.nan
    return x, head


def _greedy_is_logits(trio: Trio, name: str, width: int) -> None:
    def rows(op: str, ids: tuple[int, ...]) -> Array:
        def body(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
            return getattr(ops, op)(X(ops, w, batch), w[name]), kv

        return trio.device.run(body, _wide(len(ids), width, ids))

    for ids in ((0, 1, 2, 3, 4, 5, 6), (3, 1, 2), (6, 0), (4,), (1,)):
        for r, wanted, got in zip(ids, rows("logits", ids), rows("greedy_logits", ids), strict=True):
            what = f"greedy_logits with a {name}, {width} wide, row {r} of rows {ids}"
            if np.isnan(wanted).any():
                assert np.isnan(got).any(), f"{what}: logits has NaN there, and this none"
                continue
            right, found = (np.flatnonzero(y == y.max()) for y in (wanted, got))
            assert np.array_equal(found, right), f"{what}: the largest are {found[:8]}, of logits {right[:8]}"
            assert got.max() == wanted.max(), f"{what}: {got.max()} is the largest, of logits {wanted.max()}"


def _wide(count: int, width: int, ids: tuple[int, ...] | None = None) -> Any:
    """Rows whose step brings back `width` numbers each."""
    batch = batches.rows(count, ids=ids)
    batch.key = replace(batch.key, sample=replace(batch.key.sample, logprobs=width))
    return batch


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("dim", [64, 80, full(96), 128, full(256)])
def test_rope(lab: Lab, dtype: DType, dim: int) -> None:
    """Through `Attention.prepare`, as models use it: the rotated query reads one value back from a page per key."""
    positions = [0, 1, 2, 31, 1000]
    x = lab.draw.normal("x", 5, 2 * dim, dtype=dtype)
    frequencies = (10000.0 ** (-np.arange(0, dim, 2) / dim)).astype(np.float32)
    trio = lab.trio(dtype, {"x": table(x), "rope": rope(frequencies)})
    batch = batches.rows(5)
    batch.positions[:] = positions

    def body(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        rows = X(ops, w, batch)
        if not hasattr(rows, "reshape"):
            pytest.skip("arrays of this device have no reshape: rope is checked through attention and whole models")
        y = ops.rope(rows.reshape(-1, 2, dim), ops.rope_angles(batch.positions, w["rope"]))
        return y.reshape(-1, 2 * dim), kv

    lab.check(trio, body, batch, 2 * dim)


MOE = MoESpec(experts=6, top_k=2, renormalize=True, activation="silu")


def _routed(lab: Lab, dtype: DType, tokens: int, spec: MoESpec) -> dict[str, Given]:
    """Experts, and a router whose choice no rounding can change: the scores of a token lie a whole step apart."""
    E, M, n = 32, 40, spec.experts
    x = lab.draw.normal("x", tokens, E, dtype=dtype)
    order = lab.draw.make("order", lambda rng: np.array([rng.permutation(n) for _ in range(tokens)]))
    scores = (order * 1.5).astype(np.float32)  # [tokens, experts]
    x[:, :tokens] = np.eye(tokens)  # the first columns say which token it is
    router = np.zeros((n, E), np.float32)
    router[:, :tokens] = scores.T
    parts = (lab.draw.normal(name, n, M, E, dtype=dtype, scale=0.3) for name in ("gate", "up"))
    down = lab.draw.normal("down", n, E, M, dtype=dtype, scale=0.3)
    return {"x": table(x), "router": linear(router), "gate_up": experts(*parts), "down": experts(down)}


def _moe(spec: MoESpec) -> Body:
    return lambda ops, w, batch, kv: (
        ops.moe(X(ops, w, batch), w["router"], w["gate_up"], w["down"], spec, batch),
        kv,
    )


@check(since="1.0", profile="moe")
@pytest.mark.parametrize(
    "spec",
    [MOE, replace(MOE, renormalize=False), replace(MOE, top_k=1), full(replace(MOE, top_k=6, activation="gelu_tanh"))],
    ids=["renormalised", "plain", "top 1", "all"],
)
def test_moe(lab: Lab, dtype: DType, spec: MoESpec) -> None:
    trio = lab.trio(dtype, _routed(lab, dtype, 7, spec))
    lab.check(trio, _moe(spec), batches.rows(7), 32)


@check(since="1.0")
def test_undeclared_experts_are_refused(lab: Lab) -> None:
    if lab.device.capabilities.moe:
        pytest.skip("the device declares moe")
    dtype = lab.device.capabilities.weight_dtypes[0]

    def run() -> None:
        bench = lab.trio(dtype, _routed(lab, dtype, 3, MOE)).device
        bench.run(_moe(MOE), batches.rows(3), 32)

    with pytest.raises(NotSupported):
        run()


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("stored", ALL_DTYPES[:3])
def test_weights_stored_in_another_dtype(lab: Lab, dtype: DType, stored: DType) -> None:
    """A checkpoint's dtype is not the one computed in."""
    x, w = lab.draw.normal("x", 4, 32, dtype=dtype), lab.draw.normal("w", 24, 32, dtype="bfloat16", scale=0.2)
    w = rounded(w, stored)
    given = {"x": table(rounded(x, stored)), "w": linear(w), "norm": norm(rounded(np.abs(x[0]) + 1, stored), 1.0)}
    trio = lab.trio(dtype, given, form=stored)
    lab.check(
        trio,
        lambda ops, w, batch, kv: (ops.linear(ops.rms_norm(X(ops, w, batch), w["norm"], 1e-5), w["w"]), kv),
        batches.rows(4), 24,
    )  # fmt: skip


@check(since="1.0", level="bronze")
def test_undeclared_weight_dtypes_are_refused(lab: Lab) -> None:
    given = linear(np.ones((4, 4), np.float32))
    read, shapes = given.reader()
    for dtype in ALL_DTYPES:
        if dtype not in lab.device.capabilities.weight_dtypes:
            with pytest.raises(NotSupported):
                lab.device.pack(given.spec, read, shapes, dtype)


@check(since="1.1", profile="quant")
@pytest.mark.parametrize("bias", [False, True])
def test_quantised_linear(lab: Lab, dtype: DType, quantised: str, bias: bool) -> None:
    """Two parts, several groups of inputs; one row, few and many."""
    x = lab.draw.normal("x", 70, 256, dtype=dtype)
    parts = [lab.draw.normal(n, 40, 256, dtype=dtype, scale=1 / 16) for n in ("a", "b")]
    b = tuple(lab.draw.normal(n, 40, dtype=dtype) for n in ("bias a", "bias b")) if bias else ()
    trio = lab.trio(dtype, {"x": table(x), "w": linear(*parts, bias=b, quantize=quantised)})
    for tokens in (1, 5, 70):
        product: Body = lambda ops, w, batch, kv: (ops.linear(X(ops, w, batch), w["w"]), kv)  # noqa: E731
        lab.check(trio, product, batches.rows(tokens), 80, f"{tokens} rows")


@check(since="1.1", profile="quant")
def test_a_quantised_head_leaves_the_embedding_as_it_is(lab: Lab, dtype: DType, quantised: str) -> None:
    trio = lab.trio(dtype, {"x": table(lab.draw.normal("x", 50, 64, dtype=dtype, scale=0.2), quantised)})
    lab.check(trio, lambda ops, w, batch, kv: (X(ops, w, batch), kv), batches.rows(7), 64, "embedding")
    lab.check(trio, lambda ops, w, batch, kv: (ops.logits(X(ops, w, batch), w["x"]), kv), _wide(7, 50), what="logits")


@check(since="1.1", level="bronze")
def test_undeclared_quantisation_is_refused(lab: Lab, under_test: UnderTest) -> None:
    if under_test.manifest.contract < Version(1, 1):
        pytest.skip("the plugin is written for a contract without quantize; the engine does not ask it")
    for name in set(QUANT_FORMATS) - set(lab.device.capabilities.quantize):
        given = linear(np.ones((8, 128), np.float32), quantize=name)
        read, shapes = given.reader()
        with pytest.raises(NotSupported):
            lab.device.pack(given.spec, read, shapes, lab.device.capabilities.weight_dtypes[0])


@check(since="1.2")
def test_stored_weights_come_back_as_they_were(lab: Lab, dtype: DType) -> None:
    """Through bytes, as a later start of the engine gets them: the same results to the last bit, in every form."""
    x, n = lab.draw.normal("x", 5, 128, dtype=dtype), lab.draw.normal("n", 128)
    w, b = lab.draw.normal("w", 40, 128, dtype=dtype, scale=0.2), lab.draw.normal("b", 40, dtype=dtype)
    if lab.device.stored_form(dtype) is None:
        if not any(map(lab.device.stored_form, lab.device.capabilities.weight_dtypes)):
            with pytest.raises(NotSupported):
                lab.trio(dtype, {"w": linear(w)}).device.restore()
        pytest.skip(f"the device stores no weights in {dtype}")
    for form in (None, *lab.device.capabilities.quantize):
        weights = {"x": table(x), "n": norm(n), "w": linear(w, bias=(b,), quantize=form)}
        bench = lab.trio(dtype, weights).device

        def body(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
            return ops.linear(ops.rms_norm(X(ops, w, batch), w["n"], 1e-6), w["w"]), kv

        before = bench.run(body, batches.rows(5), 40)
        bench.restore()
        assert np.array_equal(before, bench.run(body, batches.rows(5), 40)), f"{form or dtype}: the results differ"


@check(since="1.0", level="bronze")
def test_a_missing_tensor_is_named(lab: Lab, dtype: DType) -> None:
    spec = WeightSpec((("there",), ("not.there",)), "linear")
    with pytest.raises(ContractError, match=r"not\.there"):
        lab.device.pack(spec, lambda name, index=(): np.ones((4, 4), np.float32), {"there": (4, 4)}, dtype)


@check(since="1.0", level="bronze")
def test_parts_that_do_not_fit_are_refused(lab: Lab, dtype: DType) -> None:
    spec, shapes = WeightSpec((("a",), ("b",)), "linear"), {"a": (4, 4), "b": (4, 5)}
    with pytest.raises(ContractError):
        lab.device.pack(spec, lambda name, index=(): np.ones(shapes[name], np.float32)[index], shapes, dtype)


@check(since="1.0", level="bronze")
def test_padding_rows_change_nothing(lab: Lab, dtype: DType) -> None:
    """The same rows alone and among others, to within the budget of both."""
    x, w = lab.draw.normal("x", 9, 64, dtype=dtype), lab.draw.normal("w", 64, 64, dtype=dtype, scale=0.1)
    trio = lab.trio(dtype, {"x": table(x), "w": linear(w)})

    def body(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        return ops.linear(X(ops, w, batch), w["w"]), kv

    together = trio.device.run(body, batches.rows(9), 64)
    alone = np.concatenate([trio.device.run(body, batches.rows(1, ids=[i]), 64) for i in range(9)])
    if lab.device.capabilities.batch_invariant:
        assert np.array_equal(alone, together), "batch_invariant is declared, but a row depends on the rows beside it"
    allowed = 4 * EPS[dtype] * np.abs(together).max() + 64 * EPS["float32"]
    assert np.abs(alone - together).max() <= allowed, "a row depends on the rows beside it"
