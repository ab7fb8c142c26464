"""Heads with a copy in 8 bits beside them: what is largest in a row is what whole products have, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anychip_cpu.screened import ScreenedWeight
from anychip_sdk.contract import WeightSpec
from test_widened import packed
from torch_cases import draw

HEAD = WeightSpec((("w",),), "linear", head=True)
KEPT = ("float32", "bfloat16", "float16")


def head(device, w, kept="bfloat16"):
    handle = packed(device, {"w": w.to(getattr(torch, kept))}, HEAD)
    assert isinstance(handle, ScreenedWeight)
    return handle


def agree(device, x, handle) -> float:
    """-> how much of the logits greedy ones have exactly."""
    wanted, got = device.ops.logits(x, handle), device.ops.greedy_logits(x, handle)
    for right, found in zip(wanted, got, strict=True):
        if right.isnan().any():
            assert found.isnan().any()
            continue
        largest = right == right.max()
        assert torch.equal(found[largest], right[largest])
        assert not (found[~largest] >= right.max()).any()
    return float((wanted == got).float().mean())


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 13, 40, 100])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 5), (33, 65), (200, 129), (1003, 256)])
def test_the_largest_are_exact(device, threads, kept, rows, outputs, inputs):
    agree(device, draw(rows, inputs), head(device, draw(outputs, inputs, seed=inputs), kept))


def test_most_are_not_computed(device, threads):
    exact = agree(device, draw(24, 512), head(device, draw(4000, 512, seed=1)))
    assert exact < 0.1


@pytest.mark.parametrize("rows", [1, 9])
def test_equals(device, threads, rows):
    """Of one output there are many, some in panels of others."""
    w, x = draw(700, 96), draw(rows, 96, seed=1)
    best = (x[0] @ w.T).argmax()
    w[[3, 40, 41, 350, 699]] = w[best].clone()
    agree(device, x, head(device, w))


def test_close_ones(device, threads):
    """Outputs that differ in the last of their 16 bits."""
    base = draw(1, 300).bfloat16()
    bits = base.view(torch.int16) + torch.randint(-1, 2, (600, 300), dtype=torch.int16)
    agree(
        device, torch.cat([base.float(), -base.float(), draw(7, 300, seed=3)]), head(device, bits.view(torch.bfloat16))
    )


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-12, 1e12, 1e30])
def test_sizes(device, size):
    agree(device, draw(6, 200) * size, head(device, draw(300, 200, seed=1), "float32"))
    agree(device, draw(6, 200), head(device, draw(300, 200, seed=1) * size, "float32"))


def test_few_large_numbers(device, threads):
    """Beside which 8 bits leave little of the others."""
    x, w = draw(12, 384), draw(500, 384, seed=1)
    x[:, [5, 200]] *= 1000
    w[::7, 9] *= 500
    agree(device, x, head(device, w))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(device, threads, bad):
    x = draw(6, 128)
    x[1, 3], x[4] = bad, bad
    agree(device, x, head(device, draw(300, 128, seed=1)))


def test_zeros(device, threads):
    x = draw(5, 128)
    x[2] = 0
    agree(device, x, head(device, draw(300, 128, seed=1)))
    agree(device, x, head(device, torch.zeros(300, 128)))


def test_rows_apart_and_unaligned(device, threads):
    handle, room = head(device, draw(500, 128, seed=1)), draw(9, 301)
    agree(device, room[:, 3:131], handle)


@pytest.mark.parametrize(
    "spec", [WeightSpec((("w",),), "linear"), WeightSpec((("w",),), "linear", head=True, bias=("b",))]
)
def test_others_have_no_copy(device, spec):
    assert not isinstance(packed(device, {"w": draw(64, 32), "b": draw(64)}, spec), ScreenedWeight)
    assert not isinstance(packed(device, {"w": draw(64, 32), "b": draw(64)}, HEAD, "bfloat16"), ScreenedWeight)


def test_a_table_that_is_the_head_too_gives_rows(device):
    w = draw(300, 96).bfloat16()
    handle = packed(device, {"w": w}, WeightSpec((("w",),), "embedding", head=True))
    assert torch.equal(
        device.ops.embedding(torch.tensor([7, 0, 299], dtype=torch.int32), handle), w[[7, 0, 299]].float()
    )
    agree(device, draw(3, 96), handle)


def test_stored_and_restored(device):
    handle = head(device, draw(300, 96))
    again = device.restore(device.store(handle))
    assert isinstance(again, ScreenedWeight)
    x = draw(3, 96)
    assert torch.equal(device.ops.greedy_logits(x, again), device.ops.greedy_logits(x, handle))
