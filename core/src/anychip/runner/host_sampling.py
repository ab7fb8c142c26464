"""Sampling on the host, for devices that do not declare it: their steps bring the logits back instead of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from anychip_sdk.contract import Batch, Pending, Sampled, StepKey, view
from anychip_sdk.kits.numpy.sampling import sample_rows


def logits_alone(logits: Any, batch: Batch, state: Any) -> tuple[Sampled, Any]:
    """In place of `Ops.sample`, within the step: logits [R, V] come back as its `top_logprobs`."""
    return Sampled(batch.logit_rows, top_logprobs=logits), state


def logits_key(key: StepKey, vocab_size: int) -> StepKey:
    """The key of such a step. Its buffer is laid out as `key` says."""
    return replace(key, sample=replace(key.sample, logprobs=vocab_size))


def sampled_on_host(key: StepKey, buffer: np.ndarray, launch: Callable[[], Pending]) -> Pending:
    """Launches a step that brings logits back. The buffer is the device's from then on, so what sampling needs of it
    is copied before."""
    return HostSampled(view(buffer.copy(), key), launch())


@dataclass(frozen=True)
class HostSampled:
    """A pending result that is sampled when it is there."""

    batch: Batch
    pending: Pending

    def get(self) -> Sampled:
        """Waits. Raises DeviceError or OutOfMemory."""
        logits = self.pending.get().top_logprobs
        assert logits is not None  # `logits_alone` put them there
        return sample_rows(np.asarray(logits, np.float32), self.batch)
