"""Paged attention of the JAX kit against the numpy kit: same pages, same batch, NaN wherever nothing was written."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from anychip_sdk.contract import SCALED_KV, AttentionSpec, Layer, NotSupported, WeightSpec
from jax_cases import ORACLE, AttentionCase, both, close, draw, kit_device, traced, wide, words_of
from numpy_batches import ragged

DEVICE = kit_device()
ATTENTION = DEVICE.ops.attention
DECODES = [(7, 1), (0, 1), (3, 1), (30, 1), (16, 1), (15, 1), (1, 1)]
PREFILLS = [(0, 5), (4, 6), (8, 8), (0, 37), (19, 3)]
SPECS = {
    "plain": AttentionSpec(head_dim=8, scale=0.3),
    "window 1": AttentionSpec(head_dim=8, scale=0.3, window=1),
    "window 5": AttentionSpec(head_dim=8, scale=0.3, window=5),
    "wide window": AttentionSpec(head_dim=8, scale=0.3, window=1000),
    "softcap and window": AttentionSpec(head_dim=8, scale=2.0, softcap=1.5, window=6),
}

Case = partial(AttentionCase, DEVICE)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("steps", [DECODES, DECODES[:3] + PREFILLS], ids=len)
def test_ragged_batches(steps, spec):
    Case(steps, spec).check()


@pytest.mark.parametrize("name", ["plain", "window 5"])
def test_decodes_alone_and_padding(name):
    """A decoding bucket has one row a tile; padding comes out as zero, whatever its queries hold."""
    case = Case(DECODES, SPECS[name], decode=True, pad=(3, 3))
    case.q[len(DECODES) :] = np.nan
    assert not case.check()[len(DECODES) :].any()
    case = Case(DECODES[:2] + PREFILLS, SPECS[name], pad=(9, 2))
    case.q[-9:] = np.nan
    assert not case.check()[-9:].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["plain", "softcap and window"])
def test_sinks(name, dtype):
    """Far below every score, among them, and above; once, however many blocks a tile walks over."""
    sinks = [-40, 0.5, 2, 9]
    Case(DECODES[:3] + PREFILLS, SPECS[name], dtype=dtype, sinks=sinks).check()
    Case([*DECODES, (300, 1)], SPECS[name], dtype=dtype, sinks=sinks, decode=True, pad=(1, 1)).check()


@pytest.mark.parametrize("kept", SCALED_KV)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["plain", "softcap and window"])
def test_8_bits(name, dtype, kept):
    Case(DECODES[:3] + PREFILLS, SPECS[name], dtype=dtype, kept=kept).check()
    Case(DECODES, SPECS[name], dtype=dtype, kept=kept, decode=True, pad=(1, 1), Dv=6).check()


@pytest.mark.parametrize(("heads", "size"), [((4, 1), 1), ((3, 3), 16), ((8, 2), 256)], ids=str)
def test_heads_and_page_sizes(heads, size):
    Case(DECODES + PREFILLS, SPECS["window 5"], H=heads[0], K=heads[1], size=size).check()


def test_contexts_of_several_blocks():
    steps = [(300, 1), (1, 1), (129, 1), (250, 20), (0, 140)]
    Case(steps, SPECS["plain"], size=16).check()
    Case(steps, AttentionSpec(head_dim=8, scale=0.3, window=130), size=16).check()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtypes_and_values_of_another_width(dtype):
    Case(DECODES + PREFILLS, SPECS["softcap and window"], dtype=dtype, Dv=6).check()


def test_pages_behind_the_window_may_be_given_up():
    case = Case([(10, 1), (30, 1), (9, 3)], AttentionSpec(head_dim=8, scale=0.3, window=4))
    wanted = case.check()
    for row, first in enumerate((7, 27, 6)):  # the first position each sequence still sees
        for column in range(first // 4):
            for cache in case.oracle[0]:
                cache[1, case.host.page_table[0, row, column]] = np.nan
            case.host.page_table[0, row, column] = 0
    case.take(case.oracle[0])
    np.testing.assert_array_equal(case.run(), wanted)


def test_scratch_may_hold_nan():
    case = Case(DECODES, SPECS["plain"])
    wanted = case.check()
    for cache in case.oracle[0]:
        cache[1, 0] = np.nan
    case.take(case.oracle[0])
    np.testing.assert_array_equal(case.run(), wanted)


@pytest.mark.parametrize("norms", [False, True])
def test_run_splits_heads_norms_turns_and_writes(norms):
    T, H, K, D, Dv = 6, 4, 2, 8, 6
    layer = Layer(AttentionSpec(head_dim=D, scale=0.5, eps=1e-2), 0)
    host = ragged([(0, T)], [[2, 1]], 4)
    q, k, v = (draw(T, n) for n in (H * D, K * D, K * Dv))
    rope, oracle_rope = both(DEVICE, WeightSpec((), "rope", const=np.float32([1, 0.5, 0.2, 0.1])), {}, "float32")
    norm = both(DEVICE, WeightSpec((("n",),), "norm"), {"n": draw(D)}, "float32")
    used = [dict.fromkeys(("q_norm", "k_norm"), handle if norms else None) for handle in norm]

    def run(batch, q, k, v, kv):
        angles = DEVICE.ops.rope_angles(batch.positions, rope)
        return ATTENTION.run(q, k, v, kv, batch, layer, angles=angles, **used[0])

    kv = (tuple(np.zeros((1, 3, K, 4, d), np.float32) for d in (D, Dv)),)
    got, kv = traced(DEVICE, host.key, run)(words_of(host), q, k, v, kv)
    oracle_kv = [tuple(np.zeros((1, 3, 4, K, d)) for d in (D, Dv))]
    angles = ORACLE.ops.rope_angles(host.positions, oracle_rope)
    wanted, _ = ORACLE.ops.attention.run(wide(q), wide(k), wide(v), oracle_kv, host, layer, angles=angles, **used[1])
    close(got, wanted, "float32", terms=200)
    for mine, theirs in zip(kv[0], oracle_kv[0], strict=True):
        close(np.swapaxes(mine, 2, 3), theirs, "float32", terms=20)


def test_zeros_touch_only_scratch():
    """What a device that warms up, or pads, runs: every word is zero."""
    case = Case([(3, 1)], SPECS["plain"])
    buffer = np.zeros_like(words_of(case.host))

    def run(batch, q, k, v, kv):
        return ATTENTION.run(q, k, v, kv, batch, case.layer)

    arrays = [np.ones((1, n), np.float32) for n in (32, 16, 16)]
    out, kv = traced(DEVICE, case.key, run)(buffer, *arrays, case.kv)
    assert not np.asarray(out).any()
    for now, then in zip(kv[0], case.kv[0], strict=True):
        np.testing.assert_array_equal(np.asarray(now)[:, 1:], np.asarray(then)[:, 1:])  # NaN equals NaN here


def test_wide_heads_are_refused():
    with pytest.raises(NotSupported, match="head_dim is 257"):
        ATTENTION.supports(AttentionSpec(head_dim=257, scale=1.0))
