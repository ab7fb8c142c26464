"""What takes, makes or looks at single rows: by index, angles, the most likely token."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anychip_sdk.contract import WeightSpec
from numpy_batches import sampling_batch
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


@pytest.mark.parametrize("size", [1, 5, 16, 33, 1000])
def test_the_most_likely_token(device, threads, size):
    """The first of the largest; none where a logit is NaN, and then the state gets 0."""
    logits = draw(6, size).round()
    logits[1] = -torch.inf
    logits[2, size - 1] = torch.inf
    logits[3, size // 2] = torch.nan
    batch = SimpleNamespace(key=sampling_batch([]).key, row_slot=torch.tensor([4, 0, 2, 1, 0, 3], dtype=torch.int32))
    batch.key = type(batch.key)(batch.key.bucket)
    state = SimpleNamespace(last_token=torch.full((5,), 9, dtype=torch.int32))
    tokens = device.ops.sample(logits, batch, state)[0].tokens
    wanted = logits.numpy().argmax(-1)
    wanted[3] = -1
    assert tokens.tolist() == wanted.tolist()
    assert state.last_token[1:].tolist() == [0, wanted[2], wanted[5], wanted[0]]
