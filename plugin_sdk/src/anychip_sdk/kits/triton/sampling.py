"""Sampling and logprobs on Triton kernels; see `Ops.sample` for what they compute."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from anychip_sdk.contract import ROW_WORDS, Batch, Row, Sampled
from anychip_sdk.kits.triton.kernels.logprobs import logprobs_kernel
from anychip_sdk.kits.triton.kernels.sampling import edit_kernel, penalty_kernel, sample_kernel
from anychip_sdk.kits.triton.launch import Launcher

BLOCK = 8192
"""Tokens of a row that are read at a time, since each time waits for memory. A smaller vocabulary is read at once."""

DRAW_BLOCK = 2048
"""The same while drawing, where each is compared with 16 bounds, whose sums lie in registers."""

WARPS = 16


def sample_rows(launch: Launcher, logits: Tensor, batch: Batch, last_token: Tensor) -> Sampled:
    """logits: [R, V] float32, left as they were; last_token: [slots] int32, written. See `Ops.sample`."""
    logits = logits.contiguous()
    rows, V = logits.shape
    kind = batch.key.sample
    changed = _changed(launch, logits, batch) if kind.edits or kind.penalties else logits
    tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
    launch(
        sample_kernel, (rows,), changed, batch.sampling, tokens, batch.row_slot, last_token, V, FILTERS=kind.filters,
        WORDS=ROW_WORDS, TEMPERATURE=int(Row.TEMPERATURE), TOP_P=int(Row.TOP_P), MIN_P=int(Row.MIN_P),
        UNIFORM=int(Row.UNIFORM), TOP_K=int(Row.TOP_K), BLOCK=_block(V, BLOCK), DRAW_BLOCK=_block(V, DRAW_BLOCK),
        warps=WARPS,
    )  # fmt: skip
    if kind.logprobs is None:
        return Sampled(tokens)
    return _with_logprobs(launch, logits, tokens, batch, kind.logprobs)


def _block(V: int, most: int) -> int:
    return min(most, triton.next_power_of_2(V))


def _changed(launch: Launcher, logits: Tensor, batch: Batch) -> Tensor:
    """A copy with the edits added, then the penalties taken off."""
    changed, V = logits.clone(), logits.shape[1]
    edits = batch.edit_row, batch.edit_token, batch.edit_value
    launch(edit_kernel, (len(batch.edit_row),), changed, *edits, V, warps=1)
    counts = batch.count_row, batch.count_token, batch.count_output, batch.count_seen
    launch(
        penalty_kernel, (len(batch.count_row),), changed, *counts, batch.sampling, V, WORDS=ROW_WORDS,
        REPETITION=int(Row.REPETITION), PRESENCE=int(Row.PRESENCE), FREQUENCY=int(Row.FREQUENCY), warps=1,
    )  # fmt: skip
    return changed


def _with_logprobs(launch: Launcher, logits: Tensor, tokens: Tensor, batch: Batch, count: int) -> Sampled:
    rows, V = logits.shape
    count = min(count, V)
    logprob = torch.empty(rows, dtype=torch.float32, device=logits.device)
    rank = torch.empty_like(tokens)
    top_tokens = torch.empty(rows, count, dtype=torch.int32, device=logits.device)
    top_logprobs = torch.empty(rows, count, dtype=torch.float32, device=logits.device)
    launch(
        logprobs_kernel, (rows,), logits, batch.sampling, tokens, logprob, rank, top_tokens, top_logprobs, V,
        COUNT=count, WORDS=ROW_WORDS, TARGET=int(Row.TARGET), BLOCK=_block(V, BLOCK), warps=WARPS,
    )  # fmt: skip
    return Sampled(tokens, logprob, rank, top_tokens, top_logprobs)
