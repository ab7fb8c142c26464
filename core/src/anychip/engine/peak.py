"""What the largest steps take of a device's memory: they run once, on scratch pages, before the KV cache is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from anychip_sdk.contract import Batch, Bucket, Device, OutOfMemory, SampleKind, StepKey, view, words

from anychip.engine.budget import Budget
from anychip.errors import CapacityError
from anychip.models.registry import Family
from anychip.runner.executor import OpsExecutor

MARGIN = 1.1
"""The measured peak is taken this many times: memory in use is cut into pieces that do not all fit together again."""

EDITED = SampleKind(filters=True, edits=1)
DRAWN = SampleKind(filters=True)


def measured_peak(device: Device, family: Family, weights: Any, budget: Budget, max_num_seqs: int) -> int | None:
    """Bytes of activations to hold back, the margin included; None where the device cannot measure.

    The largest step of all, in which prompts take what the decodes leave of the token budget, and the largest of
    decodes alone: devices that record steps keep both. Raises CapacityError where not even these fit beside the
    weights."""
    layout = replace(budget.layout, pages=(2,) * len(budget.layout.pages))
    count = min(max_num_seqs, budget.step_tokens)
    prompts = _new_tokens(count, budget.step_tokens, budget.max_model_len)

    def step(new: np.ndarray, kind: SampleKind) -> int | None:
        def run() -> None:
            executor = OpsExecutor(device, family, budget.spec, weights, layout)
            try:
                _run(executor, budget, new, kind, device.capabilities.asynchronous)
            finally:
                executor.free()

        return device.allocator.peak(run)

    try:
        whole, decodes = step(prompts, EDITED), step(np.ones(count, np.int32), DRAWN)
    except OutOfMemory as error:
        raise CapacityError(
            f"{device.info.name} has too little memory for a step of {budget.step_tokens} tokens: {error}; use smaller "
            "steps (max_num_batched_tokens, max_num_seqs)"
        ) from error
    return None if whole is None or decodes is None else int(MARGIN * (whole + decodes))


def _new_tokens(count: int, step_tokens: int, max_len: int) -> np.ndarray:
    """[count] int32 new tokens of each sequence: decodes first, then as few prompts as hold the rest."""
    total = min(step_tokens, count * max_len)
    prompts = max(1, -(-(total - count) // max(1, max_len - 1)))
    rest = total - (count - prompts)
    shares = [rest // prompts + (i < rest % prompts) for i in range(prompts)]
    return np.array([1] * (count - prompts) + shares, np.int32)


def _run(executor: OpsExecutor, budget: Budget, new: np.ndarray, kind: SampleKind, feed: bool) -> None:
    """One step over scratch: page 0 holds every token, slot 0 takes what is sampled."""
    size, groups = budget.layout.page_size, len(budget.layout.pages)
    decode = bool((new == 1).all())
    pages = -(-budget.max_model_len // size)
    exact = Bucket(int(new.sum()), len(new), pages, len(new), decode, groups)
    bucket = executor.bucket(exact)
    key = StepKey(bucket, executor.sample_kind(kind), feed)
    shapes = executor.plan_shapes(bucket)
    buffer = executor.lend(words(key, shapes))
    batch = view(buffer, key, shapes)
    _fill(batch, new)
    static = executor.plan(batch)
    if static is not None:
        key = replace(key, static=static)
    executor.launch(key, buffer, bucket is exact).get()


def _fill(batch: Batch, new: np.ndarray) -> None:
    """A batch of sequences that begin in this step; zeros everywhere else, which is scratch."""
    B, T = len(new), int(new.sum())
    ends = np.cumsum(new, dtype=np.int32)
    batch.counts[:] = (T, B, B, np.flatnonzero(new > 1)[0] if (new > 1).any() else B)
    batch.query_start[1 : B + 1] = ends
    batch.query_start[B + 1 :] = T
    batch.seq_lens[:B] = new
    batch.token_seq[:T] = np.repeat(np.arange(B, dtype=np.int32), new)
    batch.positions[:T] = np.arange(T, dtype=np.int32) - np.repeat(ends - new, new)
    batch.logit_rows[:B] = ends - 1
