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
    end: np.ndarray  # [B] int32, tokens computed after it
    num_decodes: int
    samples: np.ndarray  # [B] bool, whether a token is sampled (the sequence is computed to its end)
    copies: list[PageCopy]

    @property
    def decodes_alone(self) -> bool:
        """Then token `i` belongs to sequence `i`, and each samples one."""
        return self.num_decodes == len(self.requests)

    @property
    def num_tokens(self) -> int:
        return len(self.requests) if self.decodes_alone else int(self.num_new.sum())
