"""Each op of the torch kit, alone and as the cpu platform has it, against the numpy kit in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anychip_cpu.platform import CpuPlatform
from anychip_sdk.contract import Bucket, MoESpec, StepKey, WeightSpec
from numpy_batches import empty_batch
from torch_cases import DTYPES, ORACLE, both, close, draw, kit_device, on_device, wide

torch.set_num_threads(1)


@pytest.fixture(params=["kit", "cpu"])
def device(request):
    return kit_device() if request.param == "kit" else CpuPlatform().open(threads=1)


def linear_spec(bias: bool = False) -> WeightSpec:
    return WeightSpec((("a",), ("b",)), "linear", bias=("a.bias", "b.bias") if bias else ())


LINEAR = {"a": draw(12, 24), "b": draw(5, 24), "a.bias": draw(12), "b.bias": draw(5)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 7, 40])
def test_linear_and_its_parts(device, dtype, bias, rows):
    w, oracle = both(device, linear_spec(bias), LINEAR, dtype)
    x = draw(rows, 24, dtype=dtype)
    wanted = ORACLE.ops.linear_split(wide(x), oracle)
    for got, part in zip(device.ops.linear_split(x, w), wanted, strict=True):
        close(got, part, dtype, terms=24)
    close(device.ops.linear(x, w), np.concatenate(wanted, axis=1), dtype, terms=24)


def test_linear_takes_any_strides(device):
    w, oracle = both(device, linear_spec(), LINEAR, "float32")
    for x in (draw(6, 48)[:, ::2], draw(24, 6).t(), draw(6, 48)[:, 24:], draw(1, 24).expand(6, -1)):
        close(device.ops.linear(x, w), ORACLE.ops.linear(wide(x), oracle), "float32", terms=24)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_and_the_tied_head(device, dtype):
    w, oracle = both(device, WeightSpec((("e",),), "embedding"), {"e": draw(9, 6)}, dtype)
    ids, x = torch.tensor([3, 0, 8], dtype=torch.int32), draw(4, 6, dtype=dtype)
    for _ in range(2):  # the head's first product must not spoil the table
        close(device.ops.embedding(ids, w), ORACLE.ops.embedding(ids.numpy(), oracle), dtype, terms=0)
        rounded = float(torch.tensor(2.45, dtype=x.dtype))
        close(device.ops.embedding(ids, w, 2.45), ORACLE.ops.embedding(ids.numpy(), oracle, rounded), dtype, terms=0)
        for softcap in (None, 3.0):
            wanted = ORACLE.ops.logits(wide(x), oracle, softcap).astype("float64")
            got = device.ops.logits(x, w, softcap)
            assert got.dtype == torch.float32
            close(got.to(x.dtype), wanted, dtype, terms=6)


def test_take_zeros_like_and_the_sum_of_a_norm(device):
    x, rows = draw(4, 6), torch.tensor([2, 2, 0], dtype=torch.int32)
    assert device.ops.take(x, rows).equal(x[[2, 2, 0]])
    assert device.ops.zeros_like(x).equal(torch.zeros(4, 6))
    w, oracle = both(device, WeightSpec((("n",),), "norm", offset=1.0), {"n": draw(6)}, "float32")
    y, total = device.ops.add_rms_norm(x, x, w, 1e-6)
    assert total.equal(x + x)
    close(y, ORACLE.ops.rms_norm(wide(x + x), oracle, 1e-6), "float32", terms=6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 8), (0, 8)])
def test_rms_norm(device, dtype, shape):
    w, oracle = both(device, WeightSpec((("n",),), "norm"), {"n": draw(8)}, dtype)
    assert w.tensor.dtype == torch.float32
    x = draw(*shape, dtype=dtype) * 3
    close(device.ops.rms_norm(x, w, 1e-3), ORACLE.ops.rms_norm(wide(x), oracle, 1e-3), dtype, terms=8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rope(device, dtype):
    spec = WeightSpec((), "rope", const=np.array([1, 0.3, 0.1, 0.01], np.float32))
    w, oracle = both(device, spec, {}, dtype)
    positions, x = torch.tensor([0, 5, 900], dtype=torch.int32), draw(3, 2, 8, dtype=dtype)
    got = device.ops.rope(x, device.ops.rope_angles(positions, w))
    wanted = ORACLE.ops.rope(wide(x), ORACLE.ops.rope_angles(positions.numpy(), oracle))
    close(got, wanted, dtype, terms=900)  # the angle 900 is rounded to float32
    assert got[0].equal(x[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
def test_activations(device, dtype, kind):
    gate, up = draw(4, 10, dtype=dtype).split(5, dim=1)
    before = gate.clone()
    close(
        device.ops.gated_activation(gate, up, kind), ORACLE.ops.gated_activation(wide(gate), wide(up), kind), dtype, 1
    )
    assert gate.equal(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("path", ["host", "accelerator"])
def test_moe(device, dtype, renormalize, path, monkeypatch):
    if path == "accelerator":  # whose way is right on any device
        from anychip_sdk.kits.torch import moe

        monkeypatch.setattr(moe, "_on_host", moe._dense)
    X, M, E, T = 5, 6, 8, 3  # experts, width of each, hidden, tokens
    tensors = {f"{e}.{n}": draw(M, E, seed=10 * e + i) / 3 for e in range(X) for i, n in enumerate(("gate", "up"))}
    tensors |= {f"{e}.down": draw(E, M, seed=e) / 3 for e in range(X)} | {"router": draw(X, E)}
    names = {n: tuple(f"{e}.{n}" for e in range(X)) for n in ("gate", "up", "down")}
    handles = [
        both(device, spec, tensors, dtype)
        for spec in (
            WeightSpec((("router",),), "linear"),
            WeightSpec((names["gate"], names["up"]), "experts", tp="out"),
            WeightSpec((names["down"],), "experts", tp="in"),
        )
    ]
    spec = MoESpec(experts=X, top_k=2, renormalize=renormalize, activation="silu")
    host = empty_batch(StepKey(Bucket(T + 2, 1, 1, 1, False)))
    host.counts[0] = T
    x = draw(T + 2, E, dtype=dtype)
    x[T:] = torch.nan  # padding
    got = device.ops.moe(x, *(h for h, _ in handles), spec, on_device(device, host))
    wanted = ORACLE.ops.moe(wide(x), *(h for _, h in handles), spec, host)
    close(got[:T], wanted[:T], dtype, terms=8 * E)


def test_moe_ties_go_to_the_lower_expert(device):
    tensors = {"router": torch.zeros(40, 1)}
    tensors |= {f"{e}.{n}": torch.full((1, 1), 20.0 if n == "g" else 1.0) for e in range(40) for n in "gu"}
    tensors |= {f"{e}.d": torch.full((1, 1), float(e)) for e in range(40)}
    names = {n: tuple(f"{e}.{n}" for e in range(40)) for n in "gud"}
    spec = MoESpec(experts=40, top_k=2, renormalize=True, activation="silu")
    host = empty_batch(StepKey(Bucket(1, 1, 1, 1, False)))
    host.counts[0] = 1
    router, gate_up, down = (
        both(device, s, tensors, "float32")[0]
        for s in (
            WeightSpec((("router",),), "linear"),
            WeightSpec((names["g"], names["u"]), "experts"),
            WeightSpec((names["d"],), "experts"),
        )
    )
    got = device.ops.moe(torch.ones(1, 1), router, gate_up, down, spec, on_device(device, host))
    assert got.item() == pytest.approx(20 * (0 + 1) / 2)


def test_feed_takes_marked_tokens_from_the_state(device):
    host = empty_batch(StepKey(Bucket(4, 4, 1, 4, True)))
    host.token_ids[:], host.feed[:], host.token_slot[:] = [10, 11, 12, 0], [0, 1, 1, 0], [1, 2, 3, 0]
    state = SimpleNamespace(last_token=torch.tensor([90, 91, 92, 93], dtype=torch.int32))
    got = device.ops.feed(on_device(device, host), state)
    assert got.tolist() == [10, 92, 93, 0]
    assert got.dtype == torch.int32


def test_gated_mlp(device):
    gate_up, oracle_up = both(device, linear_spec(), {"a": draw(6, 24), "b": draw(6, 24, seed=1)}, "float32")
    down, oracle_down = both(device, WeightSpec((("d",),), "linear"), {"d": draw(24, 6)}, "float32")
    x = draw(5, 24)
    wanted = ORACLE.ops.gated_mlp(wide(x), oracle_up, oracle_down, "silu")
    close(device.ops.gated_mlp(x, gate_up, down, "silu"), wanted, "float32", terms=100)
