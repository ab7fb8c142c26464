"""Who gets in, and at whose cost."""

from __future__ import annotations

import numpy as np
from anychip.kvcache.cache import KVCache
from anychip.request import Request
from anychip.sampling_params import SamplingParams
from anychip.scheduler.scheduler import MOST_PASSED, Scheduler
from anychip.scheduler.table import RequestTable
from anychip_sdk.contract import KVLayout, KVSpec, Paged

PAGE = 16


def scheduler(slots, pages, max_len, **options):
    spec = KVSpec((Paged(layers=1, kv_heads=1, k_dim=1, v_dim=1, window=None),), "float32")
    kv = KVCache(KVLayout(spec, PAGE, (pages,), slots), max_len)
    return Scheduler(kv, RequestTable(slots), **options)


def request(name, tokens, extra=8, arrival=0, priority=0):
    limit = len(tokens) + extra
    return Request(name, np.asarray(tokens, np.int32), SamplingParams(), 0, frozenset(), limit, arrival, priority)


def step(made):
    """One step, in which every request that samples gets token 1."""
    plan = made.schedule()
    assert plan is not None
    made.advance(plan)
    made.update(plan, np.ones(len(plan.requests), np.int32))
    made.check_integrity()
    return {r.id: int(n) for r, n in zip(plan.requests, plan.num_new, strict=True)}


def test_who_waits_for_a_page_holds_nobody_up():
    """Two requests with one long prompt: the second waits for the first's pages, and others pass it by."""
    made, prompt = scheduler(8, 1000, 1024, max_tokens=64), np.arange(900)
    made.add(request("first", prompt, arrival=0))
    assert step(made) == {"first": 64}
    made.add(request("twin", [*prompt, 7], arrival=1))
    made.add(request("short", [3] * 20, arrival=2))
    assert step(made) == {"first": 32, "short": 20}
    steps = 0
    while "twin" not in (ran := step(made)):
        assert "first" in ran
        steps += 1
    assert ran["twin"] == 901 - 900 // PAGE * PAGE  # all but the last page is shared
    assert steps > 5


def test_few_are_passed_by():
    made, prompt = scheduler(32, 1000, 1024, max_tokens=64), np.arange(900)
    made.add(request("first", prompt))
    step(made)
    for i in range(MOST_PASSED):
        made.add(request(f"twin {i}", prompt, arrival=1 + i))
    made.add(request("short", [3] * 20, arrival=99))
    assert step(made) == {"first": 32}


def test_who_does_not_fit_is_not_passed_by():
    made = scheduler(3, 1000, 1024, max_tokens=64)  # one slot is scratch
    for i, length in enumerate((20, 20, 500, 4)):
        made.add(request(str(i), [i] * length, arrival=i))
    assert step(made) == {"0": 20, "1": 20}
    assert step(made) == {"0": 1, "1": 1}  # no slot for the third, so none for the fourth


def test_one_may_take_the_place_of_a_thousand():
    slots = 1501
    made = scheduler(slots, 2 * slots, 46_000, max_tokens=slots, policy="priority", prefix_caching=False)
    for i in range(slots - 1):
        made.add(request(str(i), [i], arrival=i, priority=5))
    step(made)
    assert len(made.running) == slots - 1
    made.add(request("first of all", [1] * 45_000, extra=10, arrival=slots))
    assert step(made)["first of all"] > 0
    assert made.preemptions > 1000
