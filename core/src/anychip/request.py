"""One completion in the making: its tokens and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter

import numpy as np

from anychip.outputs import FinishReason
from anychip.sampling_params import SamplingParams


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Request:
    """`prompt`: int32 [N]. `seed`: drawn by the engine if the params have none. `stop_ids`: token ids that end it.
    `limit`: length of prompt and output at which it ends. Lower `priority` goes first, then lower `arrival`.

    `made`, `started`: when it came and when a step first computed it, on the clock of `time.perf_counter`.

    `siblings`: the other completions of the same prompt; they take over this one's pages once its prompt is done."""

    id: str
    prompt: np.ndarray
    params: SamplingParams
    seed: int
    stop_ids: frozenset[int]
    limit: int
    arrival: int
    priority: int = 0
    salt: str = ""
    siblings: list[Request] = field(default_factory=list)

    output: list[int] = field(default_factory=list)
    status: Status = Status.WAITING
    slot: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    page_names: list[bytes] = field(default_factory=list)
    num_cached: int = 0
    preemptions: int = 0
    made: float = field(default_factory=perf_counter)
    started: float | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.output)

    @property
    def queue_seconds(self) -> float | None:
        return None if self.started is None else self.started - self.made

    def tokens(self, start: int = 0, end: int | None = None) -> np.ndarray:
        """int32 [end - start] of prompt and output."""
        end = self.num_tokens if end is None else end
        size = len(self.prompt)
        if end <= size:
            return self.prompt[start:end]
        tail = np.asarray(self.output[max(0, start - size) : end - size], np.int32)
        return np.concatenate([self.prompt[start:], tail]) if start < size else tail
