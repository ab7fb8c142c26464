"""Rows that a product reads lie a cache line further apart where they would else share the cache's sets."""

from __future__ import annotations

import pytest
import torch
from anychip_cpu.launch import CONFLICT, LINE, Launcher
from anychip_sdk.kits.torch.weights import Weight

ROWS, SIZE = 13, 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_rows_that_would_share_sets(dtype):
    near, far = (Launcher().empty_input((ROWS, n), dtype) for n in (CONFLICT // dtype.itemsize, 40))
    assert near.stride(0) * dtype.itemsize == CONFLICT + LINE
    assert far.is_contiguous()


def test_ops_write_and_take_them(device):
    """A norm's result, and rows taken of it, against the same numbers computed by torch."""
    torch.manual_seed(0)
    ops, x, scale = device.ops, torch.randn(ROWS, SIZE), torch.rand(SIZE)
    y = ops.rms_norm(x, Weight(tensor=scale), 1e-6)
    assert y.stride(0) == SIZE + LINE // 4
    torch.testing.assert_close(y, torch.nn.functional.rms_norm(x, (SIZE,), scale, 1e-6))
    ids = torch.tensor([12, 0, 5], dtype=torch.int32)
    assert torch.equal(ops.take(y, ids), y[ids.long()])
    gated = ops.gated_activation(y, y, "silu")
    torch.testing.assert_close(gated, torch.nn.functional.silu(y) * y)
