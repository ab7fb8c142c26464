"""Paged attention of the kernels against the numpy kit: same pages, same batch, NaN wherever nothing was written."""

from __future__ import annotations

import pytest
import torch
from anychip_sdk.contract import AttentionSpec
from torch_cases import DECODES, PREFILLS, AttentionCase

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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_run_on_the_kit(device, dtype):
    AttentionCase(device, DECODES + PREFILLS, spec(16), dtype=dtype).check()


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


@pytest.mark.parametrize("softcap", [1e-3, 50, 1e4, 1e30])
def test_a_softcap_far_from_the_scores(device, softcap):
    """tanh near zero, where 1 - 2 / (1 + e^2u) would cancel, and at its ends."""
    AttentionCase(device, DECODES + PREFILLS, spec(16, softcap=softcap)).check()


def test_large_scores_do_not_overflow(device):
    case = AttentionCase(device, DECODES + PREFILLS, AttentionSpec(head_dim=16, scale=40.0))
    case.check()
