"""The scheduler's decision for one step: pure data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anychip.kvcache.cache import PageCopy
from anychip.request import Request


@dataclass(frozen=True)
class StepPlan:
    """B sequences, those that decode first. `copies` are to be made before the step runs."""

    requests: list[Request]
    slots: np.ndarray  # [B] int32
    start: np.ndarray  # [B] int32, tokens computed before this step
    num_new: np.ndarray  # [B] int32, tokens computed in it
    num_decodes: int
    samples: np.ndarray  # [B] bool, whether a token is sampled (the sequence is computed to its end)
    copies: list[PageCopy]
