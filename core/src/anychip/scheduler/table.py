"""What changes every step, in arrays over request slots, so that a step of a thousand decodes costs no thousand
Python calls."""

from __future__ import annotations

import numpy as np
from anychip_sdk.contract import FLOAT_COLUMNS, ROW_WORDS, Row

from anychip.request import Request


class RequestTable:
    """Slot 0 is scratch and belongs to nobody. S = slots, scratch included."""

    def __init__(self, slots: int) -> None:
        self.requests: list[Request | None] = [None] * slots
        self.num_tokens = np.zeros(slots, np.int32)  # [S] prompt and output
        self.num_computed = np.zeros(slots, np.int32)  # [S] tokens whose K and V are in the cache
        self.last_token = np.zeros(slots, np.int32)  # [S] the last one that the host knows
        self.in_flight = np.zeros(slots, np.int32)  # [S] tokens in num_tokens that the host does not know yet
        self.limit = np.zeros(slots, np.int32)  # [S] num_tokens at which the request ends
        self.seed = np.zeros(slots, np.uint64)  # [S]
        self.sampling = np.zeros((slots, ROW_WORDS), np.int32)  # [S, ROW_WORDS] all but UNIFORM
        self.random = np.zeros(slots, bool)  # [S] temperature > 0
        self.special = np.zeros(slots, bool)  # [S] logprobs, penalties, biases or min_tokens: looked at one by one
        self.penalised = np.zeros(slots, bool)  # [S] the tokens so far change the next logits
        self.shared = np.zeros(slots, bool)  # [S] the page at num_computed may be another's too
        self._free = list(range(slots - 1, 0, -1))

    @property
    def has_free(self) -> bool:
        return bool(self._free)

    def open(self, request: Request, computed: int) -> int:
        """Gives the request a slot."""
        slot = self._free.pop()
        request.slot = slot
        self.requests[slot] = request
        self.num_tokens[slot] = request.num_tokens
        self.num_computed[slot] = computed
        self.in_flight[slot] = 0
        self.last_token[slot] = request.output[-1] if request.output else request.prompt[-1]
        self.limit[slot] = request.limit
        self.seed[slot] = request.seed
        p = request.params
        row = self.sampling[slot]
        row.view(np.float32)[:FLOAT_COLUMNS] = (
            p.temperature,
            p.top_p,
            p.min_p,
            0.0,
            p.repetition_penalty,
            p.presence_penalty,
            p.frequency_penalty,
        )
        row[Row.TOP_K] = max(0, p.top_k)
        row[Row.TARGET] = 0
        self.random[slot] = p.temperature > 0
        self.special[slot] = needs_care(request)
        self.penalised[slot] = has_penalties(request)
        self.shared[slot] = False
        return slot

    def close(self, slot: int) -> None:
        self.requests[slot] = None
        self.num_tokens[slot] = self.num_computed[slot] = 0
        self._free.append(slot)


def has_penalties(request: Request) -> bool:
    p = request.params
    return p.repetition_penalty != 1 or p.presence_penalty != 0 or p.frequency_penalty != 0


def needs_care(request: Request) -> bool:
    """Whether the runner has to look at this request by itself each step."""
    p = request.params
    asks = p.logprobs is not None or p.prompt_logprobs is not None or bool(p.logit_bias) or p.min_tokens > 0
    return asks or has_penalties(request)
