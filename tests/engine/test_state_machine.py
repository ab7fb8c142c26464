"""Scheduler and KV cache under any order of events, with a device that answers at random."""

from __future__ import annotations

import numpy as np
from anychip.kvcache.cache import KVCache
from anychip.request import Request, Status
from anychip.sampling_params import SamplingParams
from anychip.scheduler.scheduler import Scheduler
from anychip.scheduler.table import RequestTable
from anychip_sdk.contract import KVLayout, KVSpec, Paged
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

PAGE, MAX_LEN, SLOTS = 4, 48, 6


def group(window):
    return Paged(layers=1, kv_heads=1, k_dim=1, v_dim=1, window=window)


class SchedulerMachine(RuleBasedStateMachine):
    requests = Bundle("requests")

    @initialize(
        windows=st.sampled_from([(None,), (9,), (None, 9), (5, None)]),
        pages=st.integers(13, 30),
        budget=st.integers(1, 24),
        policy=st.sampled_from(["fcfs", "priority"]),
        caching=st.booleans(),
    )
    def start(self, windows, pages, budget, policy, caching):
        spec = KVSpec(tuple(group(w) for w in windows), "float32")
        self.kv = KVCache(KVLayout(spec, PAGE, (pages,) * len(windows), SLOTS), MAX_LEN)
        self.table = RequestTable(SLOTS)
        self.scheduler = Scheduler(self.kv, self.table, max_tokens=budget, policy=policy, prefix_caching=caching)
        self.in_flight = None
        self.arrivals = 0
        self.all = []

    def make(self, length, extra, priority, salt, family):
        # Prompts of one family share their beginning, so that prefixes hit.
        prompt = (np.arange(length) * (family + 1)).astype(np.int32) % 50
        self.arrivals += 1
        limit = min(MAX_LEN, length + extra)
        request = Request(
            str(self.arrivals), prompt, SamplingParams(), 0, frozenset({7}), limit, self.arrivals, priority, salt
        )
        self.all.append(request)
        return request

    @rule(
        target=requests,
        length=st.integers(1, MAX_LEN - 1),
        extra=st.integers(1, 30),
        priority=st.integers(0, 2),
        salt=st.sampled_from(["", "tenant"]),
        family=st.integers(0, 1),
        siblings=st.integers(0, 3),
    )
    def add(self, length, extra, priority, salt, family, siblings):
        request = self.make(length, extra, priority, salt, family)
        request.siblings = [self.make(length, extra, priority, salt, family) for _ in range(siblings)]
        self.scheduler.add(request)
        return request

    def run_one(self, token, ahead=False):
        """ahead: the step stays in flight until the next one is launched."""
        plan = self.scheduler.schedule()
        before, self.in_flight = self.in_flight, plan
        if plan is None:
            assert before or not self.scheduler.has_work
        else:
            self.check_plan(plan)
            self.scheduler.advance(plan)
            self.scheduler.check_integrity()
        if before is not None:
            self.book(before, token)
        if not ahead and self.in_flight is not None:
            plan, self.in_flight = self.in_flight, None
            self.book(plan, token)

    def land(self):
        """Requests are preempted and forked by the scheduler alone, when no other step is in flight."""
        if self.in_flight is not None:
            plan, self.in_flight = self.in_flight, None
            self.book(plan, 5)

    def book(self, plan, token):
        tokens = np.where(plan.samples, token + np.arange(len(plan.slots)), 0) % 50
        live = self.scheduler.update(plan, tokens.astype(np.int32))
        assert all(len(r.output) <= r.limit - len(r.prompt) for r in plan.requests)
        assert len(live) == len(plan.requests)

    def check_plan(self, plan):
        assert plan.num_new.sum() <= self.scheduler.max_tokens
        assert len(set(plan.requests)) == len(plan.requests)
        assert (plan.num_new[: plan.num_decodes] == 1).all()
        copied = {(c.group, c.target) for c in plan.copies}
        for request, start, count in zip(plan.requests, plan.start, plan.num_new, strict=True):
            for position in range(start, start + count):
                for g, pool in enumerate(self.kv.pools):
                    page = self.kv.table[g, request.slot, position // PAGE]
                    assert page, "a token has no page to write to"
                    assert pool.references[page] == 1, "a token would be written into a shared page"
        assert all(self.kv.pools[g].references[p] == 1 for g, p in copied)

    @rule(token=st.integers(0, 49), ahead=st.booleans())
    def step(self, token, ahead):
        self.run_one(token, ahead)

    @rule(request=consumes(requests))
    def cancel(self, request):
        self.scheduler.finish(request, "abort")

    @rule(request=requests)
    def preempt(self, request):
        self.land()
        if request.status is Status.RUNNING:
            self.scheduler.preempt(request)

    @rule(request=requests)
    def fork(self, request):
        self.land()
        computed = int(self.table.num_computed[request.slot]) if request.status is Status.RUNNING else 0
        if computed and self.table.has_free:
            child = self.make(1, 20, request.priority, request.salt, 0)
            child.prompt = request.tokens(0, computed)
            child.limit = min(MAX_LEN, len(child.prompt) + 5)
            if child.num_tokens < child.limit:
                self.scheduler.fork(request, child)

    @rule()
    def forget(self):
        self.kv.forget_prefixes()

    @invariant()
    def integrity(self):
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3000):
            if not (self.scheduler.has_work or self.in_flight):
                break
            self.run_one(3)
        assert not self.scheduler.has_work, "requests starve"
        assert all(r.status is Status.FINISHED for r in self.all)
        assert all(pool.in_use == 0 for pool in self.kv.pools), "pages leak"
        self.scheduler.check_integrity()


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
