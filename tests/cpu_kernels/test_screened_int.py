"""Heads of 8 bits with the upper six beside them: what is largest in a row is what whole products have, bit by bit.
On instruction sets that would not be faster, too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from anychip_cpu.quantized import IntWeight, TiedWeight
from anychip_cpu.screened import ScreenedIntWeight, screens_heads
from anychip_sdk.contract import WeightSpec
from test_screened import agree
from test_widened import packed
from torch_cases import draw

HEAD = WeightSpec((("w",),), "linear", head=True, quantize="int8")
SHAPES = [(1, 16), (7, 16), (33, 64), (200, 144), (1003, 256)]


@pytest.fixture(autouse=True)
def screens(device):
    """Whatever the instruction set."""
    device.capabilities = replace(device.capabilities, screens_heads={"float32": 8, "int8": 6})


def head(device, w):
    handle = packed(device, {"w": w}, HEAD)
    assert isinstance(handle, ScreenedIntWeight)
    return handle


def test_where_it_is_faster(device):
    """With vectors of 32 bytes or more, of which a panel has two."""
    assert ("int8" in screens_heads(device.ops._kernels)) == (device.ops._kernels.width >= 16)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 40])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_the_largest_are_exact(device, threads, rows, outputs, inputs):
    agree(device, draw(rows, inputs), head(device, draw(outputs, inputs, seed=inputs)))


def test_most_are_not_computed(device, threads):
    exact = agree(device, draw(1, 512), head(device, draw(8000, 512, seed=1)))
    assert exact < 0.1


@pytest.mark.parametrize("rows", [1, 4])
def test_equals(device, threads, rows):
    """Of one output there are many, some in panels of others and in other threads' share."""
    w, x = draw(700, 96), draw(rows, 96, seed=1)
    best = (x[0] @ w.T).argmax()
    w[[3, 40, 41, 350, 699]] = w[best].clone()
    agree(device, x, head(device, w))


def test_close_ones(device, threads):
    """Outputs whose bytes differ by one at most, so that mostly the lower bits tell them apart."""
    base = torch.randint(-100, 100, (1, 320)).float()
    w = base + torch.randint(-1, 2, (600, 320))
    w[:, 7] = 127  # every output's scale
    agree(device, torch.cat([base, -base, draw(2, 320, seed=3)]), head(device, w))


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-12, 1e12, 1e30])
def test_sizes(device, size):
    agree(device, draw(4, 208) * size, head(device, draw(300, 208, seed=1)))
    agree(device, draw(4, 208), head(device, draw(300, 208, seed=1) * size))


def test_sums_that_overflow(device, threads):
    """Where the rough ones do not."""
    w = torch.full((300, 256), 30.0)
    w[3] = 60
    w[275, :128], w[275, 128:], w[:, 0] = 127, -127, 127
    agree(device, torch.full((1, 256), 2.11e34), head(device, w * 2.0**-10))


def test_sums_that_all_but_vanish(device, threads):
    w = torch.full((300, 16), 7.0)
    w[:, 15] = 127
    x = torch.full((1, 16), 1e-30)
    x[0, 15] = 0
    agree(device, x, head(device, w * 6.7e-18))


def test_few_large_numbers(device, threads):
    x, w = draw(4, 384), draw(500, 384, seed=1)
    x[:, [5, 200]] *= 1000
    w[::7, 9] *= 500
    agree(device, x, head(device, w))


def test_all_as_large_as_they_get(device, threads):
    """The largest sums there are, and the farthest that the lower bits take them."""
    w = torch.where(torch.randn(300, 1024, generator=torch.Generator().manual_seed(0)) > 0, 127.0, -127.0)
    agree(device, torch.cat([w[:2], -w[2:4]]), head(device, w))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(device, threads, bad):
    x = draw(4, 128)
    x[1, 3], x[3] = bad, bad
    agree(device, x, head(device, draw(300, 128, seed=1)))


def test_zeros(device, threads):
    x = draw(4, 128)
    x[2] = 0
    agree(device, x, head(device, draw(300, 128, seed=1)))
    agree(device, x, head(device, torch.zeros(300, 128)))


def test_rows_apart_and_unaligned(device, threads):
    agree(device, draw(4, 301)[:, 3:131], head(device, draw(500, 128, seed=1)))


@pytest.mark.parametrize(
    ("spec", "inputs"),
    [
        (replace(HEAD, head=False), 32),
        (replace(HEAD, quantize="int8-g32"), 32),
        (replace(HEAD, quantize="int4"), 32),
        (replace(HEAD, bias=("b",)), 32),
        (HEAD, 24),
    ],
)
def test_others_have_no_copy(device, spec, inputs):
    assert type(packed(device, {"w": draw(64, inputs), "b": draw(64)}, spec)) is IntWeight


def test_a_table_that_is_the_head_too_gives_rows(device):
    w = draw(300, 96).bfloat16()
    handle = packed(device, {"w": w}, WeightSpec((("w",),), "embedding", head=True, quantize="int8"))
    assert isinstance(handle, TiedWeight)
    assert isinstance(handle.head, ScreenedIntWeight)
    assert torch.equal(
        device.ops.embedding(torch.tensor([7, 0, 299], dtype=torch.int32), handle), w[[7, 0, 299]].float()
    )
    agree(device, draw(3, 96), handle)


def test_steps_in_16_bits_have_no_copy(device):
    """Their logits are rounded, and many are as large."""
    assert type(packed(device, {"w": draw(64, 32)}, HEAD, "bfloat16")) is IntWeight


def test_stored_and_restored(device):
    handle = head(device, draw(300, 96))
    again = device.restore(device.store(handle))
    assert isinstance(again, ScreenedIntWeight)
    x = draw(3, 96)
    assert torch.equal(device.ops.greedy_logits(x, again), device.ops.greedy_logits(x, handle))
