"""Rows by index, and the angles of positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anychip_sdk.contract import WeightSpec
from torch_cases import draw


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(9, 1), (9, 5), (50, 700), (4, 3, 7)])
def test_rows_by_index(device, threads, shape, dtype):
    x = draw(*shape, dtype=dtype)
    rows = torch.tensor([3, 0, 3, len(x) - 1] * 8, dtype=torch.int32)
    assert device.ops.take(x, rows).equal(x[rows.long()])
    assert device.ops.zeros_like(x).equal(torch.zeros_like(x))


@pytest.mark.parametrize("half", [1, 16, 33])
def test_angles(device, threads, half):
    """The product of position and frequency is rounded to float32, as in the torch kit."""
    frequencies = np.geomspace(1, 1e-4, half, dtype=np.float32)
    mine = device.pack(WeightSpec((), "rope", const=frequencies), None, {}, "float32")
    positions = torch.tensor([0, 1, 7, 1000, 131071], dtype=torch.int32).repeat(80)
    cosine, sine = device.ops.rope_angles(positions, mine)
    angles = (positions.float()[:, None, None] * mine.tensor).double()
    assert (cosine - torch.cat((angles.cos(), angles.cos()), -1)).abs().max() < 2e-7
    assert (sine - torch.cat((-angles.sin(), angles.sin()), -1)).abs().max() < 2e-7
