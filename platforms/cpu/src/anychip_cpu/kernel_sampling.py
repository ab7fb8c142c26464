"""Sampling on kernels of our own."""

from __future__ import annotations

import torch
from anychip_sdk.contract import Batch, Sampled
from torch import Tensor

from anychip_cpu.launch import Launcher
from anychip_cpu.native import SAMPLE_BYTES, Kernels, SampleWork


def sample(logits: Tensor, batch: Batch, last_token: Tensor, kernels: Kernels, launch: Launcher) -> Sampled:
    """logits: [R, V] float32; last_token: [slots] int32, written. See `Ops.sample`."""
    logits = launch.rows(logits)
    (rows, vocabulary), count = logits.shape, batch.key.sample.logprobs
    tokens = launch.empty((rows,), torch.int32, like=logits)
    told: tuple[Tensor | None, ...] = (None,) * 4
    if count is not None:
        count = min(count, vocabulary)
        shapes = (
            ((rows,), torch.float32),
            ((rows,), torch.int32),
            ((rows, count), torch.int32),
            ((rows, count), torch.float32),
        )
        told = tuple(launch.empty(shape, dtype, like=logits) for shape, dtype in shapes)
    scratch = launch.empty((torch.get_num_threads() * SAMPLE_BYTES * vocabulary,), torch.uint8)
    edits = (batch.edit_row, batch.edit_token, batch.edit_value)
    counts = (batch.count_row, batch.count_token, batch.count_output, batch.count_seen)
    arrays = (logits, batch.sampling, *edits, *counts, batch.row_slot, last_token, tokens, *told, scratch)
    work = SampleWork(
        *(None if array is None else array.data_ptr() for array in arrays),
        *(launch.live(logits), rows, vocabulary, logits.stride(0), batch.sampling.stride(0)),
        *(len(edits[0]), len(counts[0]), count or 0),
    )
    launch.run(kernels.sample, work)
    return Sampled(tokens, *told)
