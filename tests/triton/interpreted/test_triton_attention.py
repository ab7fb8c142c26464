"""Paged attention against the numpy kit in float64: same pages, same batch, NaN wherever nothing was written."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from anychip_sdk.contract import AttentionSpec, ContractError, Layer, NotSupported, WeightSpec
from anychip_sdk.kits.torch.scaled import FORMATS, ScaledPages, scaled
from numpy_batches import ragged
from torch_cases import DECODES, ORACLE, PREFILLS, AttentionCase, both, close, draw, on_device, wide
from triton_device import DTYPES, TILES, triton_device

torch.set_num_threads(1)
DEVICE = triton_device()
ATTENTION = DEVICE.ops.attention
SPECS = {
    "plain": AttentionSpec(head_dim=8, scale=0.3),
    "window 1": AttentionSpec(head_dim=8, scale=0.3, window=1),
    "window 5": AttentionSpec(head_dim=8, scale=0.3, window=5),
    "window 16": AttentionSpec(head_dim=8, scale=0.3, window=16),
    "wide window": AttentionSpec(head_dim=8, scale=0.3, window=1000),
    "softcap": AttentionSpec(head_dim=8, scale=2.0, softcap=1.5),
    "softcap and window": AttentionSpec(head_dim=8, scale=2.0, softcap=1.5, window=6),
}
LONG = [(63, 1), (64, 1), (47, 1)]
"""Decodes of several chunks: one full, one that just begins."""

Case = partial(AttentionCase, DEVICE)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("steps", [DECODES[:5] + LONG, PREFILLS, DECODES[:3] + PREFILLS], ids=len)
def test_ragged_batches(steps, spec):
    Case(steps, spec).check()


@pytest.mark.parametrize("heads", [(3, 3), (7, 1), (10, 2)], ids=str)
@pytest.mark.parametrize("size", [1, 16, 64])
def test_heads_and_page_sizes(heads, size):
    Case(DECODES[:4] + PREFILLS, SPECS["plain"], H=heads[0], K=heads[1], size=size).check()


def test_more_heads_of_one_kv_head_than_a_tile_has_rows():
    Case([*LONG, (3, 5)], SPECS["plain"], H=40, K=1).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [8, 20, 64, 80])
def test_dtypes_widths_and_values_of_another_width(dtype, head_dim):
    spec = AttentionSpec(head_dim=head_dim, scale=head_dim**-0.5, softcap=2.0, window=9)
    Case(DECODES[:3] + LONG[:1] + PREFILLS[:3], spec, dtype=dtype, Dv=6).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", ["int8", "fp8"])
def test_pages_in_8_bits(kept, dtype):
    """Chunks and tiles, full and masked, and values of another width; scales of masked places are NaN too."""
    for name in ("plain", "softcap and window"):
        Case([*DECODES[:3], *LONG, *PREFILLS], SPECS[name], dtype=dtype, kept=kept, Dv=6).check()
    Case([(63, 1), (20, 30)], SPECS["plain"], dtype=dtype, kept=kept, H=10, K=1, size=16).check()


SINKS = [-30.0, -1.0, 0.0, 1.0, 3.0, 60.0]
"""Of six heads: far below every score, among them, and so far above that it takes all."""


@pytest.mark.parametrize("spec", [SPECS[name] for name in ("plain", "window 5", "softcap and window")], ids=str)
@pytest.mark.parametrize("steps", [DECODES[:3] + LONG, PREFILLS, DECODES[:3] + PREFILLS], ids=len)
def test_sinks(steps, spec):
    """Once each, however many chunks and tiles; neither scaled nor capped nor windowed."""
    Case(steps, spec, H=6, K=2).check_sinks(SINKS)


@pytest.mark.parametrize("kept", [None, "int8", "fp8"])
def test_sinks_in_float16_and_over_pages_in_8_bits(kept):
    case = Case([*LONG, *PREFILLS], SPECS["softcap and window"], H=6, dtype="float16", kept=kept, Dv=6)
    case.check_sinks(SINKS)


def test_sinks_leave_padding_alone():
    """A sequence of no tokens has a sink too, and no result."""
    case = Case(LONG, SPECS["plain"])
    wanted = case.check_sinks([1.0, 0.0, 2.0, -1.0])
    case.pad(tokens=2, seqs=2)
    got = case.run_with_sinks([1.0, 0.0, 2.0, -1.0])
    assert got[: len(LONG)].equal(wanted)
    assert not got[len(LONG) :].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", ["int8", "fp8"])
def test_what_is_kept_in_8_bits(kept, dtype):
    """The numbers and scales of the torch kit, after norm and rotation; zeros, NaN and vectors of any magnitude."""
    T, K, D, Dv = 8, 10, 12, 6
    layer = Layer(AttentionSpec(head_dim=D, scale=0.5, eps=1e-2), 0)
    k, v = draw(T, K, D, dtype=dtype), draw(T, K, Dv, dtype=dtype, seed=2)
    sizes = torch.tensor([0, 1e-6, 1e-3, 1, 60, 3e4, 1, 1]).to(k.dtype)[:, None, None]
    k, v = k * sizes, v * sizes
    k[6, 3, 5] = v[7, 2, 1] = torch.nan
    kind = FORMATS[kept]
    kv = [tuple([ScaledPages(torch.zeros(4, K, 4, d).to(kind), torch.zeros(4, K, 4))] for d in (D, Dv))]
    ATTENTION.write(k, v, kv, on_device(DEVICE, ragged([(0, T)], [[2, 1]], 4)), layer)
    for (stored,), new in zip(kv[0], (k, v), strict=True):
        numbers, scales = (x.transpose(1, 2)[[2] * 4 + [1] * 4, [0, 1, 2, 3] * 2] for x in stored)
        wanted, wanted_scales = scaled(new, kind)
        whole = wanted_scales.isfinite()
        assert scales[whole].equal(wanted_scales[whole])
        assert scales[~whole].isnan().all()
        assert numbers.float()[whole].equal(wanted.float()[whole])


def test_a_result_does_not_depend_on_the_batch():
    """Bitwise, and with any number of programs: alone or among others, of few or many page-table columns."""
    alone = [Case([step], SPECS["plain"], seed=i).run() for i, step in enumerate(LONG)]
    together = Case(LONG, SPECS["plain"])
    for i in range(len(LONG)):
        other = Case([LONG[i]], SPECS["plain"], seed=i)
        together.q[i] = other.q[0]
        pages = other.host.page_table[0, 0]
        mine = together.host.page_table[0, i, : len(pages)]
        for cache, source in zip(together.kv[0], other.kv[0], strict=True):
            cache[1][torch.from_numpy(mine).long()] = source[1][torch.from_numpy(pages).long()]
    for tiles in (TILES, replace(TILES, programs=1), replace(TILES, programs=100)):
        together.device = triton_device(tiles)
        got = together.run()
        assert [row.tolist() for row in got] == [one[0].tolist() for one in alone]


def test_pages_behind_the_window_may_be_given_up():
    case = Case([(10, 1), (30, 1), (9, 3)], AttentionSpec(head_dim=8, scale=0.3, window=4))
    wanted = case.check()
    for row, first in enumerate((7, 27, 6)):  # the first position each sequence still sees
        for column in range(first // 4):
            page = int(case.host.page_table[0, row, column])
            for layers in case.kv[0]:
                layers[1][page] = torch.nan
            case.host.page_table[0, row, column] = 0
    for layers in case.kv[0]:
        layers[1][0] = torch.nan
    assert case.run().equal(wanted)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("H", [4, 18])
def test_run_splits_heads_norms_turns_and_writes(norms, dtype, H):
    T, K, D, Dv = 6, 2, 12, 6
    layer = Layer(AttentionSpec(head_dim=D, scale=0.5, eps=1e-2), 0)
    host = ragged([(0, T)], [[2, 1]], 4)
    q, k, v = draw(T, H * D + K * (D + Dv), dtype=dtype).split((H * D, K * D, K * Dv), dim=1)  # views of one product
    rope, oracle_rope = both(DEVICE, WeightSpec((), "rope", const=np.float32([1, 0.5, 0.2, 0.1, 0.3, 0])), {}, dtype)
    norm = both(DEVICE, WeightSpec((("n",),), "norm"), {"n": draw(D)}, dtype)
    used = [dict.fromkeys(("q_norm", "k_norm"), handle if norms else None) for handle in norm]
    kv = [tuple([torch.zeros(3, K, 4, d, dtype=q.dtype)] for d in (D, Dv))]
    batch = on_device(DEVICE, host)
    angles = DEVICE.ops.rope_angles(batch.positions, rope)
    got, same = ATTENTION.run(q, k, v, kv, batch, layer, angles=angles, **used[0])
    assert same is kv
    oracle_kv = [tuple(np.zeros((1, 3, 4, K, d)) for d in (D, Dv))]
    angles = ORACLE.ops.rope_angles(host.positions, oracle_rope)
    wanted, _ = ORACLE.ops.attention.run(wide(q), wide(k), wide(v), oracle_kv, host, layer, angles=angles, **used[1])
    close(got, wanted, dtype, terms=200)
    for mine, theirs in zip(kv[0], oracle_kv[0], strict=True):
        close(mine[0].transpose(1, 2), theirs[0], dtype, terms=20)


@pytest.mark.parametrize("cache", ["float32", "float16"])
def test_write_alone_and_a_cache_of_another_dtype(cache):
    T, K = 5, 3
    k, v = draw(T, K, 8), draw(T, K, 6)
    kv = [tuple([torch.zeros(3, K, 4, d, dtype=getattr(torch, cache))] for d in (8, 6))]
    host = ragged([(0, T)], [[2, 1]], 4)
    ATTENTION.write(k, v, kv, on_device(DEVICE, host), Layer(SPECS["plain"], 0))
    for stored, new in zip(kv[0], (k, v), strict=True):
        assert stored[0].transpose(1, 2)[[2, 2, 2, 2, 1], [0, 1, 2, 3, 0]].equal(new.to(stored[0].dtype))
    case = Case(DECODES[:4] + PREFILLS[:2], SPECS["plain"], dtype=cache)
    case.q, case.dtype = case.q.float(), "float32"
    case.check()


def test_zeros_touch_only_scratch():
    """What a device that warms up, or pads, runs: every word is zero."""
    case = Case([(3, 1)], SPECS["plain"])
    before = [[t.clone() for t in layers] for layers in case.kv[0]]
    for name, array in vars(case.host).items():
        if name not in ("key", "plan"):
            array[...] = 0
    for decode in (False, True):
        case.host.key = replace(case.host.key, bucket=replace(case.host.key.bucket, decode=decode))
        batch = on_device(DEVICE, case.host)
        out, _ = ATTENTION.run(torch.ones(1, 32), torch.ones(1, 16), torch.ones(1, 16), case.kv, batch, case.layer)
        assert not out.any()
        for now, then in zip(case.kv[0], before, strict=True):
            for layer in (0, 1):
                np.testing.assert_array_equal(now[layer][1:].numpy(), then[layer][1:].numpy())  # NaN equals NaN here


def test_a_decode_bucket_of_padding_and_real_sequences():
    case = Case(LONG, SPECS["plain"])
    wanted = case.check()
    case.pad(tokens=2, seqs=2)
    got = case.run()
    assert got[: len(LONG)].equal(wanted)
    assert not got[len(LONG) :].any()


def test_no_tokens_at_all():
    kv = [tuple([torch.zeros(2, 2, 4, d)] for d in (8, 6))]
    batch = on_device(DEVICE, ragged([], [], 4))
    q, k, v = torch.zeros(0, 32), torch.zeros(0, 16), torch.zeros(0, 12)
    out, _ = ATTENTION.run(q, k, v, kv, batch, Layer(SPECS["plain"], 0))
    assert out.shape == (0, 24)


def test_what_is_refused():
    with pytest.raises(NotSupported, match="head_dim is 512"):
        ATTENTION.supports(AttentionSpec(head_dim=512, scale=1.0))
    with pytest.raises(ContractError, match="attention_kernel was given bfloat16 under TRITON_INTERPRET=1, which misc"):
        Case(DECODES, SPECS["plain"], dtype="bfloat16").run()
