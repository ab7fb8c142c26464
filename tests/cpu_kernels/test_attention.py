"""Paged attention of the kernels against the numpy kit: same pages, same batch, NaN wherever nothing was written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from anychip_sdk.contract import AttentionSpec, KVLayout, KVSpec, Layer, Paged
from anychip_sdk.kits.torch import TorchAttention, rope
from anychip_sdk.kits.torch.scaled import gather
from anychip_sdk.kits.torch.weights import Weight
from numpy_batches import ragged
from torch_cases import DECODES, EPSILON, PREFILLS, AttentionCase, close, draw, on_device
from torch_cases import wide as wide_of

LONG = [(1000, 1), (255, 1), (256, 1), (257, 1), (511, 1), (0, 1)]
LONG_PREFILLS = [(0, 150), (300, 70), (63, 65), (64, 1 + 64)]


def spec(head_dim, **fields):
    return AttentionSpec(head_dim=head_dim, scale=head_dim**-0.5, **fields)


@pytest.mark.parametrize("steps", [DECODES, PREFILLS, DECODES + PREFILLS, LONG, LONG_PREFILLS], ids=len)
@pytest.mark.parametrize("fields", [{}, {"window": 5}, {"window": 100}, {"softcap": 0.7}, {"softcap": 2, "window": 64}])
def test_ragged_batches(device, threads, steps, fields):
    AttentionCase(device, steps, spec(16, **fields)).check()


@pytest.mark.parametrize("head_dim", [2, 8, 20, 64, 80, 96, 128, 256])
def test_head_dims(device, head_dim):
    AttentionCase(device, LONG[1:4] + LONG_PREFILLS[2:], spec(head_dim), size=16).check()


@pytest.mark.parametrize("heads", [(1, 1), (4, 1), (9, 3), (7, 1), (15, 5), (64, 1), (96, 2), (65, 1)], ids=str)
def test_query_heads_of_a_kv_head(device, heads):
    AttentionCase(device, DECODES + PREFILLS, spec(16), H=heads[0], K=heads[1]).check()


@pytest.mark.parametrize("size", [1, 2, 16, 64, 128])
def test_page_sizes(device, size):
    AttentionCase(device, LONG[1:4] + LONG_PREFILLS[1:3], spec(16, window=70), size=size).check()


@pytest.mark.parametrize("v_dim", [2, 6, 40])
def test_values_of_another_width(device, threads, v_dim):
    AttentionCase(device, DECODES + PREFILLS, spec(16), Dv=v_dim).check()


DTYPES = ("float32", "bfloat16", "float16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [*DTYPES, "int8", "fp8"])
@pytest.mark.parametrize("fields", [{}, {"window": 20, "softcap": 3}], ids=["plain", "window and softcap"])
def test_every_kind_of_pages_and_numbers(device, threads, dtype, kept, fields):
    AttentionCase(device, LONG[:4] + LONG_PREFILLS, spec(32, **fields), dtype=dtype, kept=kept, size=16).check()


@pytest.mark.parametrize("kept", ["float16", "int8", "fp8"])
@pytest.mark.parametrize("head_dim", [16, 256, 258])
@pytest.mark.parametrize("heads", [64, 65])
def test_what_it_leaves_to_the_kit_is_said(device, monkeypatch, kept, head_dim, heads):
    left, attend = [], TorchAttention.attend
    monkeypatch.setattr(TorchAttention, "attend", lambda *given: left.append(1) or attend(*given))
    AttentionCase(device, [(3, 1)], spec(head_dim), H=heads, K=1, kept=kept).check()
    kv = KVSpec((Paged(layers=1, kv_heads=1, k_dim=head_dim, v_dim=head_dim),), kept)
    said = device.ops.attention.fallback(spec(head_dim), heads, kv, "float32")
    assert (said is not None) == bool(left) == (kept == "fp8" or head_dim > 256 or heads > 64)


@pytest.mark.parametrize("kept", [*DTYPES[1:], "int8"])
@pytest.mark.parametrize("head_dim", [2, 20, 64, 80, 254, 256])
def test_head_dims_of_narrow_pages(device, kept, head_dim):
    AttentionCase(device, LONG[1:4] + LONG_PREFILLS[2:], spec(head_dim), kept=kept, Dv=head_dim + 2, size=7).check()


@pytest.mark.parametrize("heads", [(2, 1), (3, 1), (9, 3), (7, 1), (64, 1), (65, 1)], ids=str)
def test_query_heads_over_whole_numbers(device, heads):
    AttentionCase(device, DECODES + PREFILLS, spec(16), H=heads[0], K=heads[1], kept="int8", size=1).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [*DTYPES, "int8"])
@pytest.mark.parametrize("head_dim", [2, 20, 64, 256])
@pytest.mark.parametrize("norms", [False, True], ids=["rope", "rope and norms"])
def test_prepare_writes_every_kind_of_pages(device, threads, dtype, kept, head_dim, norms):
    """Queries as the kit has them, and pages that give back K and V to the rounding of both."""
    T, H, K = 7, 6, 2
    layer = Layer(AttentionSpec(head_dim=head_dim, scale=1.0, eps=1e-2), 0)
    made = draw(T, (H + 2 * K) * head_dim + 1, dtype=dtype)[:, 1:]  # rows that no vector is aligned to
    q, k, v = made.split([H * head_dim, K * head_dim, K * head_dim], 1)
    batch = on_device(device, ragged([(0, T)], [[2, 1]], 4))
    angles = rope.angles_of(batch.positions, 0.5 ** torch.arange(head_dim // 2))
    norm = Weight(draw(head_dim, seed=4)) if norms else None
    fused = {"angles": angles, "q_norm": norm, "k_norm": norm}
    layout = KVLayout(KVSpec((Paged(layers=1, kv_heads=K, k_dim=head_dim, v_dim=head_dim),), kept), 4, (3,), slots=2)
    wide = KVLayout(replace(layout.spec, dtype="float32"), 4, (3,), slots=2)
    got, kv = device.ops.attention.prepare(q, k, v, device.allocator.allocate(layout), batch, layer, **fused)
    kit = TorchAttention()
    wanted, exact = kit.prepare(
        *(x.float() for x in (q, k, v)), device.allocator.allocate(wide), kit.begin(batch), layer, **fused
    )
    close(got, wide_of(wanted), dtype, terms=100)
    for pages, vectors in zip((*kv[0][0], *kv[0][1]), (*exact[0][0], *exact[0][1]), strict=True):
        found = gather(pages, torch.arange(3 * K), torch.float32)
        right = vectors.reshape(3 * K, 4, head_dim)
        unit = right.abs().amax(-1, keepdim=True) / 254 if kept == "int8" else right.abs() * EPSILON[kept]
        assert ((found - right).abs() <= unit * (1 + 1e-5) + 1e-5).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_vector_that_is_not_finite_has_no_scale(device, bad):
    layer = Layer(AttentionSpec(head_dim=20, scale=1.0), 0)
    layout = KVLayout(KVSpec((Paged(layers=1, kv_heads=2, k_dim=20, v_dim=20),), "int8"), 4, (3,), slots=2)
    q, k, v = (draw(3, 40) for _ in range(3))
    k[1, 23], v[2] = bad, 0.0
    batch = on_device(device, ragged([(0, 3)], [[1]], 4))
    _, kv = device.ops.attention.prepare(q, k, v, device.allocator.allocate(layout), batch, layer)
    keys, values = (layers[0] for layers in kv[0])
    assert keys.scales[1].isnan().tolist() == [[False] * 4, [False, True, False, False]]
    assert not values.scales[1, :, 2].any()
    assert gather(values, torch.arange(2, 4), torch.float32).isfinite().all()


def test_the_batch_and_the_threads_change_no_bit(device):
    """What a sequence gets alone, it gets in any company."""
    whole = AttentionCase(device, LONG + LONG_PREFILLS, spec(32))
    wanted = whole.run()
    torch.set_num_threads(3)
    assert whole.run().equal(wanted)
    torch.set_num_threads(1)
    for steps, row in ((LONG[:1], slice(0, 1)), (LONG[:3], slice(0, 3))):
        alone = AttentionCase(device, steps, spec(32))
        alone.kv = whole.kv
        alone.host.page_table[0, :, :] = whole.host.page_table[0, : len(steps), : alone.host.page_table.shape[2]]
        alone.q = whole.q[row]
        assert alone.run().equal(wanted[row])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fields", [{}, {"window": 450}, {"softcap": 3}], ids=str)
def test_sequences_with_a_prefix_in_common(device, threads, dtype, fields):
    """Their chunks with the same pages are read together; each gets the bits that it gets alone."""
    steps = [(n, 1) for n in (700, 600, 513, 511, 300, 256, 40, 600, 600, 601, 602, 603, 604, 605, 1000)]
    whole = AttentionCase(device, steps, spec(32, **fields), H=6, K=2, dtype=dtype, size=16)
    pages = whole.host.page_table[0]
    for row, (computed, _) in zip(pages, steps, strict=True):
        if computed != 601:  # whose pages are its own
            row[: min(512, computed) // 16] = pages[0, : min(512, computed) // 16]
    together = whole.check()
    for i in (0, 3, 9, 14):
        alone = AttentionCase(device, steps[i : i + 1], spec(32, **fields), H=6, K=2, dtype=dtype, size=16)
        alone.kv, alone.q = whole.kv, whole.q[i : i + 1]
        alone.host.page_table[0, 0] = pages[i, : alone.host.page_table.shape[2]]
        assert alone.run().equal(together[i : i + 1])


@pytest.mark.parametrize("fields", [{}, {"window": 450}, {"softcap": 3}], ids=str)
@pytest.mark.parametrize("kept", ["float32", "float16", "int8"])
def test_prompts_with_a_prefix_in_common(device, threads, fields, kept):
    """Their tokens meet it together, and parts of one long prompt what came before; each gets the bits that it gets
    alone."""
    steps = [(600, 1), (512, 20), (512, 8), (576, 33), (513, 2), (300, 9), (512, 7), (99, 5), (512, 40), (64, 30)]
    steps += [(63, 30), (512, 3), (0, 20), (400, 260), (700, 9)]
    whole = AttentionCase(device, steps, spec(32, **fields), H=6, K=2, kept=kept, size=16)
    pages = whole.host.page_table[0]
    for row, (computed, new) in zip(pages[1:], steps[1:], strict=True):
        if new != 7:  # whose pages are its own
            row[: min(512, computed) // 16] = pages[0, : min(512, computed) // 16]
    together = whole.check()
    first = 0
    for i, (_, new) in enumerate(steps):
        alone = AttentionCase(device, steps[i : i + 1], spec(32, **fields), H=6, K=2, kept=kept, size=16)
        alone.kv, alone.q = whole.kv, whole.q[first : first + new]
        alone.host.page_table[0, 0] = pages[i, : alone.host.page_table.shape[2]]
        assert alone.run().equal(together[first : first + new])
        first += new


@pytest.mark.parametrize("size", [1, 16, 24])
@pytest.mark.parametrize("kept", ["float32", "float16", "int8"])
@pytest.mark.parametrize("heads", [(5, 5), (45, 5)], ids=str)
def test_many_sequences_have_their_heads_read_together(device, threads, size, kept, heads):
    """With many tasks a thread takes several KV heads of a page at once, the last time fewer; no bit changes by it."""
    H, K = heads
    attention = spec(20, window=300)
    steps = [(n, 1) for n in (700, 255, 256, 300, 31, 0, 16, 15, 513, 299, 24, 25, 100, 601, 8, 7, 520, 47, 1, 64)]
    whole = AttentionCase(device, steps, attention, H=H, K=K, kept=kept, size=size)
    together = whole.check()
    for i in (0, 3, 5, 8, 11):
        alone = AttentionCase(device, steps[i : i + 1], attention, H=H, K=K, kept=kept, size=size)
        alone.kv, alone.q = whole.kv, whole.q[i : i + 1]
        alone.host.page_table[0, 0] = whole.host.page_table[0, i, : alone.host.page_table.shape[2]]
        assert alone.run().equal(together[i : i + 1])


@pytest.mark.parametrize("softcap", [1e-3, 50, 1e4, 1e30])
def test_a_softcap_far_from_the_scores(device, softcap):
    """tanh near zero, where 1 - 2 / (1 + e^2u) would cancel, and at its ends."""
    AttentionCase(device, DECODES + PREFILLS, spec(16, softcap=softcap)).check()


def test_large_scores_do_not_overflow(device):
    case = AttentionCase(device, DECODES + PREFILLS, AttentionSpec(head_dim=16, scale=40.0))
    case.check()
