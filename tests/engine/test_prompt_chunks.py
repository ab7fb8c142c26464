"""How a step's token budget is shared out among prompts."""

from __future__ import annotations

import numpy as np
import pytest
from anychip.kvcache.cache import KVCache
from anychip.request import Request
from anychip.sampling_params import SamplingParams
from anychip.scheduler.scheduler import Scheduler
from anychip.scheduler.table import RequestTable
from anychip_sdk.contract import KVLayout, KVSpec, Paged

SLOTS, PAGE, MAX_LEN = 10, 16, 1024


def first_chunks(prompts: list[int], max_tokens: int) -> list[int]:
    """Tokens of each prompt in the first step."""
    spec = KVSpec((Paged(layers=1, kv_heads=1, k_dim=1, v_dim=1, window=None),), "float32")
    kv = KVCache(KVLayout(spec, PAGE, (1000,), SLOTS), MAX_LEN)
    scheduler = Scheduler(kv, RequestTable(SLOTS), max_tokens=max_tokens)
    for i, length in enumerate(prompts):
        tokens = np.full(length, i, np.int32)
        scheduler.add(Request(str(i), tokens, SamplingParams(), 0, frozenset(), length + 8, i, 0, ""))
    plan = scheduler.schedule()
    assert plan is not None
    return plan.num_new.tolist()


@pytest.mark.parametrize(
    ("prompts", "chunks"),
    [
        ([900], [512]),  # nobody waits behind it
        ([900, 20], [256, 20]),
        ([200, 150, 100], [200, 150, 100]),
        ([200, 150, 180, 170, 160, 150], [200, 150, 81, 64, 17]),
        ([900, 900, 900, 20], [256, 128, 64, 20]),
    ],
)
def test_long_prompts_leave_room_for_others(prompts, chunks):
    assert first_chunks(prompts, 512) == chunks


def test_a_small_budget_is_shared_token_by_token():
    assert first_chunks([30, 30, 30, 30], 7) == [3, 2, 1, 1]
