"""Paged attention of the torch kit against the numpy kit: same pages, same batch, NaN wherever nothing was written."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from anychip_sdk.contract import AttentionSpec, Layer, WeightSpec
from anychip_sdk.kits.torch import attention, decode
from numpy_batches import ragged
from torch_cases import (
    DECODES,
    DTYPES,
    ORACLE,
    PREFILLS,
    AttentionCase,
    both,
    close,
    draw,
    kit_device,
    on_device,
    wide,
)

torch.set_num_threads(1)
DEVICE = kit_device()
ATTENTION = DEVICE.ops.attention
SPECS = {
    "plain": AttentionSpec(head_dim=8, scale=0.3),
    "window 1": AttentionSpec(head_dim=8, scale=0.3, window=1),
    "window 4": AttentionSpec(head_dim=8, scale=0.3, window=4),
    "window 5": AttentionSpec(head_dim=8, scale=0.3, window=5),
    "wide window": AttentionSpec(head_dim=8, scale=0.3, window=1000),
    "softcap": AttentionSpec(head_dim=8, scale=2.0, softcap=1.5),
    "softcap and window": AttentionSpec(head_dim=8, scale=2.0, softcap=1.5, window=6),
}


Case = partial(AttentionCase, DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("steps", [DECODES, PREFILLS, DECODES[:3] + PREFILLS], ids=len)
def test_sinks(steps, spec, dtype):
    Case(steps, spec, H=6, K=2, dtype=dtype).check_sinks([-30.0, -1.0, 0.0, 1.0, 3.0, 60.0])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("steps", [DECODES, PREFILLS, DECODES[:3] + PREFILLS, DECODES + PREFILLS[:1]], ids=len)
def test_ragged_batches(steps, spec):
    Case(steps, spec).check()


@pytest.mark.parametrize("heads", [(4, 1), (3, 3), (8, 2)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 16, 64])
def test_heads_and_page_sizes(heads, size):
    Case(DECODES + PREFILLS, SPECS["plain"], H=heads[0], K=heads[1], size=size).check()
    Case(DECODES + PREFILLS, SPECS["window 5"], H=heads[0], K=heads[1], size=size).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["plain", "softcap and window"])
def test_dtypes_and_values_of_another_width(dtype, name):
    Case(DECODES + PREFILLS, SPECS[name], dtype=dtype, Dv=6).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", ["int8", "fp8", "float32", "bfloat16"])
@pytest.mark.parametrize("name", ["plain", "softcap and window"])
def test_kv_in_another_format(dtype, kept, name):
    Case(DECODES + PREFILLS, SPECS[name], dtype=dtype, kept=kept, Dv=6).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["plain", "window 4", "softcap"])
def test_more_decodes_than_a_group_takes(dtype, name):
    Case([(1 + 7 * i % 40, 1) for i in range(37)] + PREFILLS, SPECS[name], dtype=dtype).check()


@pytest.mark.parametrize("name", ["plain", "window 4", "softcap"])
def test_an_accelerator_takes_all_decodes_at_once(name, monkeypatch):
    """The path without sparse products, groups and lists of places to wipe, run on the host."""
    original = decode._plan_group

    def plan(*args):
        group = original(*args)
        group.wipe = None
        return group

    monkeypatch.setattr(attention, "has_sparse", lambda pages, q: False)
    monkeypatch.setattr(decode, "HOST_GROUP", 1000)
    monkeypatch.setattr(decode, "_plan_group", plan)
    Case(DECODES + PREFILLS, SPECS[name]).check()


def test_pages_behind_the_window_may_be_given_up():
    case = Case([(10, 1), (30, 1), (9, 3)], SPECS["window 4"])
    wanted = case.check()
    for row, first in enumerate((7, 27, 6)):  # the first position each sequence still sees
        for column in range(first // 4):
            page = int(case.host.page_table[0, row, column])
            for layers in case.kv[0]:
                layers[1][page] = torch.nan
            case.host.page_table[0, row, column] = 0
    assert case.run().equal(wanted)


def test_scratch_may_hold_nan():
    case = Case(DECODES, SPECS["plain"])
    wanted = case.check()
    for layers in case.kv[0]:
        layers[1][0] = torch.nan
    assert case.run().equal(wanted)


@pytest.mark.parametrize("norms", [False, True])
def test_run_splits_heads_norms_turns_and_writes(norms):
    T, H, K, D, Dv = 6, 4, 2, 8, 6
    layer = Layer(AttentionSpec(head_dim=D, scale=0.5, eps=1e-2), 0)
    host = ragged([(0, T)], [[2, 1]], 4)
    q, k, v = (draw(T, n) for n in (H * D, K * D, K * Dv))
    rope, oracle_rope = both(DEVICE, WeightSpec((), "rope", const=np.float32([1, 0.5, 0.2, 0.1])), {}, "float32")
    norm = both(DEVICE, WeightSpec((("n",),), "norm"), {"n": draw(D)}, "float32")
    used = [dict.fromkeys(("q_norm", "k_norm"), handle if norms else None) for handle in norm]
    kv = [tuple([torch.zeros(3, K, 4, d)] for d in (D, Dv))]
    batch = on_device(DEVICE, host)
    got, same = ATTENTION.run(
        q, k, v, kv, batch, layer, angles=DEVICE.ops.rope_angles(batch.positions, rope), **used[0]
    )
    assert same is kv
    oracle_kv = [tuple(np.zeros((1, 3, 4, K, d)) for d in (D, Dv))]
    angles = ORACLE.ops.rope_angles(host.positions, oracle_rope)
    wanted, _ = ORACLE.ops.attention.run(wide(q), wide(k), wide(v), oracle_kv, host, layer, angles=angles, **used[1])
    close(got, wanted, "float32", terms=200)
    for mine, theirs in zip(kv[0], oracle_kv[0], strict=True):
        close(mine[0].transpose(1, 2), theirs[0], "float32", terms=20)


def test_zeros_touch_only_scratch():
    """What a device that warms up, or pads, runs: every word is zero."""
    case = Case([(3, 1)], SPECS["plain"])
    before = [[t.clone() for t in layers] for layers in case.kv[0]]
    for name, array in vars(case.host).items():
        if name not in ("key", "plan"):
            array[...] = 0
    batch = on_device(DEVICE, case.host)
    out, _ = ATTENTION.run(torch.ones(1, 32), torch.ones(1, 16), torch.ones(1, 16), case.kv, batch, case.layer)
    assert not out.any()
    for now, then in zip(case.kv[0], before, strict=True):
        for layer in (0, 1):
            np.testing.assert_array_equal(now[layer][1:].numpy(), then[layer][1:].numpy())  # NaN equals NaN here


def test_no_tokens_at_all():
    kv = [tuple([torch.zeros(2, 2, 4, d)] for d in (8, 6))]
    batch = on_device(DEVICE, ragged([], [], 4))
    q, k, v = torch.zeros(0, 32), torch.zeros(0, 16), torch.zeros(0, 12)
    out, _ = ATTENTION.run(q, k, v, kv, batch, Layer(SPECS["plain"], 0))
    assert out.shape == (0, 24)
