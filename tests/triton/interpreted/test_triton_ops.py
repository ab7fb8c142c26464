"""The other ops against the numpy kit in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anychip_sdk.contract import Bucket, ContractError, KVSpec, MoESpec, Paged, StepKey, WeightSpec
from anychip_sdk.kits.triton import Launcher
from anychip_sdk.kits.triton.kernels.prepare import prepare
from numpy_batches import empty_batch
from torch_cases import ORACLE, both, close, draw, on_device, wide
from triton.runtime.interpreter import InterpreterBuilder
from triton_device import DTYPES, triton_device

torch.set_num_threads(1)
DEVICE = triton_device()
OPS = DEVICE.ops


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [6, 1030])
def test_embedding(dtype, width):
    w, oracle = both(DEVICE, WeightSpec((("e",),), "embedding"), {"e": draw(9, width)}, dtype)
    ids = torch.tensor([3, 0, 8], dtype=torch.int32)
    close(OPS.embedding(ids, w), ORACLE.ops.embedding(ids.numpy(), oracle), dtype, terms=0)
    rounded = float(torch.tensor(2.45, dtype=getattr(torch, dtype)))
    close(OPS.embedding(ids, w, 2.45), ORACLE.ops.embedding(ids.numpy(), oracle, rounded), dtype, terms=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 8), (0, 8), (2, 33)])
def test_rms_norm(dtype, shape):
    w, oracle = both(DEVICE, WeightSpec((("n",),), "norm"), {"n": draw(shape[-1])}, dtype)
    x = draw(*shape, dtype=dtype) * 3
    close(OPS.rms_norm(x, w, 1e-3), ORACLE.ops.rms_norm(wide(x), oracle, 1e-3), dtype, terms=8)


def test_rms_norm_takes_any_strides():
    w, oracle = both(DEVICE, WeightSpec((("n",),), "norm"), {"n": draw(8)}, "float32")
    for x in (draw(6, 16)[:, ::2], draw(8, 6).t(), draw(6, 16)[:, 8:]):
        close(OPS.rms_norm(x, w, 1e-3), ORACLE.ops.rms_norm(wide(x), oracle, 1e-3), "float32", terms=8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_of_a_norm(dtype):
    w, oracle = both(DEVICE, WeightSpec((("n",),), "norm", offset=1.0), {"n": draw(6)}, dtype)
    x, residual = draw(4, 6, dtype=dtype), draw(4, 6, dtype=dtype, seed=1)
    y, total = OPS.add_rms_norm(x, residual, w, 1e-6)
    assert total.equal(x + residual)
    close(y, ORACLE.ops.rms_norm(wide(total), oracle, 1e-6), dtype, terms=6)


def test_norms_divide_and_take_roots_exactly(monkeypatch):
    """The quick forms of both, which cards have, would cost float32 more than the suite allows."""

    def quick(*_):
        pytest.fail("a norm uses a quick division or root")

    for name in ("create_fdiv", "create_sqrt", "create_rsqrt"):
        monkeypatch.setattr(InterpreterBuilder, name, quick)
    w, _ = both(DEVICE, WeightSpec((("n",),), "norm"), {"n": draw(6)}, "float32")
    OPS.add_rms_norm(draw(4, 6), draw(4, 6), w, 1e-6)
    keys, values = torch.zeros(2, 1, 4, 6), torch.zeros(2, 1, 4, 6)
    slots, norms = torch.tensor([4, 5], dtype=torch.int32), {"q_weight": w.tensor, "k_weight": w.tensor, "eps": 1e-6}
    prepare(Launcher(), draw(2, 12), draw(2, 6), draw(2, 6), keys, values, slots, **norms)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("width", [5, 1025])
def test_activations(dtype, kind, width):
    gate, up = (draw(4, 2 * width, dtype=dtype) * 5).split(width, dim=1)
    before = gate.clone()
    close(OPS.gated_activation(gate, up, kind), ORACLE.ops.gated_activation(wide(gate), wide(up), kind), dtype, 1)
    assert gate.equal(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("top_k", "renormalize", "T"), [(1, False, 40), (2, True, 40), (3, True, 1), (5, False, 9)])
def test_moe(dtype, top_k, renormalize, T):
    X, M, E = 5, 18, 20  # experts, width of each, hidden
    tensors = {f"{e}.{n}": draw(M, E, seed=10 * e + i) / 3 for e in range(X) for i, n in enumerate(("gate", "up"))}
    tensors |= {f"{e}.down": draw(E, M, seed=e) / 3 for e in range(X)} | {"router": draw(X, E)}
    names = {n: tuple(f"{e}.{n}" for e in range(X)) for n in ("gate", "up", "down")}
    handles = [
        both(DEVICE, spec, tensors, dtype)
        for spec in (
            WeightSpec((("router",),), "linear"),
            WeightSpec((names["gate"], names["up"]), "experts", tp="out"),
            WeightSpec((names["down"],), "experts", tp="in"),
        )
    ]
    spec = MoESpec(experts=X, top_k=top_k, renormalize=renormalize, activation="silu")
    host = empty_batch(StepKey(Bucket(T + 2, 1, 1, 1, False)))
    host.counts[0] = T
    x = draw(T + 2, E, dtype=dtype)
    x[T:] = torch.nan  # padding
    with np.errstate(invalid="ignore"):
        got = OPS.moe(x, *(h for h, _ in handles), spec, on_device(DEVICE, host))
        wanted = ORACLE.ops.moe(wide(x), *(h for _, h in handles), spec, host)
    # float16 scores may swap two experts that are near a tie; the draws here have none
    close(got[:T], wanted[:T], dtype, terms=8 * E)
    assert not got[T:].any()


def test_moe_ties_go_to_the_lower_expert():
    tensors = {"router": torch.zeros(40, 1)}
    tensors |= {f"{e}.{n}": torch.full((1, 1), 20.0 if n == "g" else 1.0) for e in range(40) for n in "gu"}
    tensors |= {f"{e}.d": torch.full((1, 1), float(e)) for e in range(40)}
    names = {n: tuple(f"{e}.{n}" for e in range(40)) for n in "gud"}
    spec = MoESpec(experts=40, top_k=2, renormalize=True, activation="silu")
    host = empty_batch(StepKey(Bucket(1, 1, 1, 1, False)))
    host.counts[0] = 1
    router, gate_up, down = (
        both(DEVICE, s, tensors, "float32")[0]
        for s in (
            WeightSpec((("router",),), "linear"),
            WeightSpec((names["g"], names["u"]), "experts"),
            WeightSpec((names["d"],), "experts"),
        )
    )
    got = OPS.moe(torch.ones(1, 1), router, gate_up, down, spec, on_device(DEVICE, host))
    assert got.item() == pytest.approx(20 * (0 + 1) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_of_pages(dtype):
    spec = KVSpec((Paged(layers=2, kv_heads=3, k_dim=5, v_dim=7), Paged(layers=1, kv_heads=1, k_dim=2, v_dim=2)), dtype)
    layout = DEVICE.allocator.layout(spec, budget=2**20, page_size=4, max_len=32, slots=4)
    kv = DEVICE.allocator.allocate(layout)
    for group in kv:
        for cache in (*group[0], *group[1]):
            cache.copy_(torch.randn(cache.shape))
    before = [[[t.clone() for t in side] for side in group] for group in kv]
    source, target = np.int32([3, 1, 3]), np.int32([2, 5, 4])
    assert DEVICE.allocator.copy_pages(kv, 0, source, target) is kv
    for side, old in zip(kv[0], before[0], strict=True):
        for now, then in zip(side, old, strict=True):
            assert now[target].equal(then[source])
            assert now[[0, 1, 3, 6]].equal(then[[0, 1, 3, 6]])
    assert all(now.equal(then) for s, o in zip(kv[1], before[1], strict=True) for now, then in zip(s, o, strict=True))


def test_bfloat16_is_an_error_here_by_construction():
    w, _ = both(DEVICE, WeightSpec((("n",),), "norm"), {"n": draw(8)}, "bfloat16")
    with pytest.raises(ContractError, match="rms_norm_kernel was given bfloat16 under TRITON_INTERPRET=1"):
        OPS.rms_norm(draw(2, 8, dtype="bfloat16"), w, 1e-6)
