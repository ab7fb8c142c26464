"""Norms, activations, rope and the writing of K and V, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anychip_sdk.contract import AttentionSpec, Layer, WeightSpec
from numpy_batches import ragged
from torch_cases import ORACLE, both, close, draw, on_device, wide

DTYPES = ["float32", "bfloat16", "float16"]
SIZES = [1, 5, 16, 33, 576]
ROWS = [1, 3, 70]


def norm(device, size):
    return both(device, WeightSpec((("n",),), "norm"), {"n": draw(size)}, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_rms_norm(device, threads, rows, size, dtype):
    mine, oracle = norm(device, size)
    x = draw(rows, 2 * size, dtype=dtype)[:, size:]
    close(device.ops.rms_norm(x, mine, 1e-5), ORACLE.ops.rms_norm(wide(x), oracle, 1e-5), dtype, terms=size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_add_rms_norm(device, threads, rows, size, dtype):
    mine, oracle = norm(device, size)
    x, residual = draw(rows, size, dtype=dtype), draw(rows, size, dtype=dtype, seed=1)
    y, total = device.ops.add_rms_norm(x, residual, mine, 1e-5)
    wanted, _ = ORACLE.ops.add_rms_norm(wide(x), wide(residual), oracle, 1e-5)
    close(y, wanted, dtype, terms=size)
    assert total.equal(x + residual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_gated_activation(device, threads, rows, size, kind, dtype):
    both_parts = draw(rows, 2 * size, dtype=dtype) * 4
    gate, up = both_parts.split(size, dim=-1)
    wanted = ORACLE.ops.gated_activation(wide(gate), wide(up), kind)
    close(device.ops.gated_activation(gate, up, kind), wanted, dtype, terms=8)


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
def test_activations_at_their_ends(device, kind):
    gate = torch.tensor([[-torch.inf, -1e4, -100, -20, -0.0, 0, 20, 100, 1e4, torch.nan]])
    y = device.ops.gated_activation(gate, torch.ones_like(gate), kind)[0]
    assert y[0].isnan() or y[0] == 0
    assert (y[1:4].abs() < 1e-7).all()
    assert y[4:6].tolist() == [0, 0]
    assert y[6:9].tolist() == [20, 100, 1e4]
    assert y[9].isnan()


@pytest.mark.parametrize("D", [2, 8, 20, 64, 96])
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_prepare(device, threads, D, norms, turned, dtype):
    T, H, K, Dv = 7, 6, 2, D + 2
    layer = Layer(AttentionSpec(head_dim=D, scale=0.5, eps=1e-2), 0)
    host = ragged([(3, T)], [[2, 4, 1]], 4)
    q, k, v = draw(T, H * D + K * D + K * Dv, dtype=dtype).split(
        [H * D, K * D, K * Dv], dim=-1
    )  # views, as of one product
    frequencies = np.linspace(1, 0.1, D // 2, dtype=np.float32)
    rope, oracle_rope = both(device, WeightSpec((), "rope", const=frequencies), {}, "float32")
    used = [dict.fromkeys(("q_norm", "k_norm"), w if norms else None) for w in norm(device, D)]
    kv = [tuple([torch.zeros(5, K, 4, d, dtype=q.dtype)] for d in (D, Dv))]
    oracle_kv = [tuple(np.zeros((1, 5, 4, K, d)) for d in (D, Dv))]
    batch = on_device(device, host)
    angles = device.ops.rope_angles(batch.positions, rope) if turned else None
    got, _ = device.ops.attention.prepare(q, k, v, kv, batch, layer, angles=angles, **used[0])
    angles = ORACLE.ops.rope_angles(host.positions, oracle_rope) if turned else None
    wanted, _ = ORACLE.ops.attention.prepare(
        wide(q), wide(k), wide(v), oracle_kv, host, layer, angles=angles, **used[1]
    )
    close(got, wanted, dtype, terms=100)
    for mine, theirs in zip(kv[0], oracle_kv[0], strict=True):
        close(mine[0].transpose(1, 2), theirs[0], dtype, terms=100)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_are_rounded_as_torch_rounds(device, dtype):
    """Every kind of number: ties, subnormal ones, what is too large, infinities and NaN."""
    kind = getattr(torch, dtype)
    x = torch.randint(0, 2**16, (200, 33), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    x = x.to(torch.uint16).view(kind)
    one = device.pack(WeightSpec((("n",),), "vector"), lambda _, i=(): np.ones(33, np.float32), {"n": (33,)}, dtype)
    _, total = device.ops.add_rms_norm(x, x.flip(0), one, 1.0)
    wanted = x + x.flip(0)
    assert total.isnan().equal(wanted.isnan())
    assert total[~wanted.isnan()].equal(wanted[~wanted.isnan()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_logits(device, threads, dtype, softcap):
    """In float32, whatever the product's dtype."""
    mine, oracle = both(device, WeightSpec((("w",),), "linear"), {"w": draw(45, 20)}, dtype)
    x = draw(7, 20, dtype=dtype)
    got = device.ops.logits(x, mine, softcap)
    assert got.dtype == torch.float32
    close(got.to(x.dtype), ORACLE.ops.logits(wide(x), oracle, softcap), dtype, terms=20)
