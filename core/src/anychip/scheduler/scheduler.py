"""Continuous batching (Orca, OSDI 2022) with chunked prefill (Sarathi-Serve, arXiv:2403.02310) over paged KV
(PagedAttention, arXiv:2309.06180)."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from functools import partial

import numpy as np
from anychip_sdk.contract import NO_TOKEN

from anychip.kvcache.cache import KVCache, PageCopy, PrefixHit
from anychip.kvcache.prefix import PageNamer
from anychip.outputs import FinishReason
from anychip.request import Request, Status
from anychip.scheduler.plan import StepPlan
from anychip.scheduler.table import RequestTable

PROMPT_LOGPROBS_CHUNK = 128
"""Prompt tokens a step with prompt logprobs computes at most: each needs a row of logits."""
LEAST_SHARE = 8
"""A chunk that leaves room for others takes this part of a full step at least: many small chunks cost a device more
than a few large ones."""

MOST_PASSED = 8
"""Waiting requests that a step passes by because a page of theirs is being computed: each costs it a search."""


class Scheduler:
    """Requests are ordered by `policy`: by arrival ("fcfs"), or by priority and then arrival. Pages and slots go to
    the first in that order; when they run out, the last running request gives up its own and is computed again
    later (its full pages often come back from the prefix cache)."""

    def __init__(
        self,
        kv: KVCache,
        table: RequestTable,
        *,
        max_tokens: int,
        max_chunk: int | None = None,
        policy: str = "fcfs",
        prefix_caching: bool = True,
    ) -> None:
        self.kv = kv
        self.table = table
        self.max_tokens = max_tokens
        self.max_chunk = min(max_chunk or max_tokens, max_tokens)
        self.by_priority = policy == "priority"
        self.order: Callable[[Request], tuple[int, int]] = (
            (lambda r: (r.priority, r.arrival)) if self.by_priority else (lambda r: (0, r.arrival))
        )
        self.waiting: list[Request] = []  # in order
        self.running: list[Request] = []  # in order
        self._slots: np.ndarray | None = None  # of `running`; None when that changed
        self._void: set[Request] = set()  # preempted or put off in this step: what was chosen for them does not run
        self._namer = PageNamer(kv.page_size) if prefix_caching else None
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    # -- requests come and go ------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        bisect.insort(self.waiting, request, key=self.order)

    def finish(self, request: Request, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        """Ends a request in any state and frees what it holds. Siblings that waited for its prompt go on alone."""
        if request.status is Status.FINISHED:
            return
        if request.status is Status.RUNNING:
            self._leave(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        request.status = Status.FINISHED
        request.finish_reason, request.stop_reason = reason, stop_reason
        for sibling in request.siblings:
            self.add(sibling)
        request.siblings = []

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    @property
    def counts_outputs(self) -> bool:
        """Whether what a running request has written so far, all of it, shapes its next logits."""
        return bool(self.table.penalised[self._running_slots()].any())

    # -- one step ------------------------------------------------------------------------------------------------

    def schedule(self) -> StepPlan | None:
        """Decodes first, then prefill chunks of what runs, then of what waits. None: nothing to do."""
        self._void = set()
        copies: dict[Request, list[PageCopy]] = {}
        decodes = self._decodes(copies)
        budget = self.max_tokens - len(decodes)
        chunks: list[tuple[Request, int]] = []
        for request in self._prefilling() if len(decodes) < len(self.running) else ():
            if budget > 0 and request.status is Status.RUNNING:
                budget -= self._add_chunk(request, budget, chunks)
        self._admit(budget, chunks)
        return self._plan(decodes, chunks, copies)

    def _decodes(self, copies: dict[Request, list[PageCopy]]) -> list[Request]:
        """Who decodes in this step, in order, each with a page to write to."""
        t, slots = self.table, self._running_slots()
        tokens, computed = t.num_tokens[slots], t.num_computed[slots]
        which = ((tokens - computed == 1) & (tokens < t.limit[slots])).nonzero()[0][: self.max_tokens]
        ready = slots[which]
        decodes = [r for s in ready.tolist() if (r := t.requests[s]) is not None]
        full = computed[which] >= self.kv.num_pages[ready] * self.kv.page_size
        for i in (full | t.shared[ready]).nonzero()[0].tolist():
            if decodes[i] not in self._void:
                self._make_room(decodes[i], partial(self._own_next_page, decodes[i], copies))
        return [r for r in decodes if r not in self._void] if self._void else decodes

    def _own_next_page(self, request: Request, copies: dict[Request, list[PageCopy]]) -> bool:
        t, slot = self.table, request.slot
        position = int(t.num_computed[slot])
        if t.shared[slot]:
            made = self.kv.make_writable(slot, position)
            if made is None:
                return False
            copies[request] = made
            t.shared[slot] = False
        return self.kv.reserve(slot, position + 1)

    def _make_room(self, request: Request, attempt: Callable[[], bool]) -> bool:
        """Tries until it works, preempting the last in order each time. False: the request was itself the last. One
        whose step in flight is about to free pages is put off: preempted, it might come to this again and again."""
        while not attempt():
            victim = self.running[-1]
            if victim is request and self.kv.leaves_pages(request.slot, int(self.table.num_computed[request.slot])):
                self._void.add(request)
                return False
            self.preempt(victim)
            if victim is request:
                return False
        return True

    def _remaining(self, request: Request) -> int:
        return int(self.table.num_tokens[request.slot] - self.table.num_computed[request.slot])

    def _add_chunk(self, request: Request, budget: int, chunks: list[tuple[Request, int]]) -> int:
        """Tokens of the request's prompt that run in this step. While others wait behind it, a long prompt takes
        half of what is left, so that short ones get in beside it and it still moves every step."""
        computed = int(self.table.num_computed[request.slot])
        others = bool(self.waiting) or self.running[-1] is not request
        crowded = others and self._remaining(request) > budget
        share = max(1, budget // 2, self.max_tokens // LEAST_SHARE) if crowded else budget
        limit = min(share, budget, self.max_chunk)
        if request.params.prompt_logprobs is not None:
            limit = min(limit, PROMPT_LOGPROBS_CHUNK)
        tokens = min(self._remaining(request), limit)
        room = self.kv.reservable(request.slot) - computed
        if 0 < room < tokens:
            tokens = room
        if not self._make_room(request, partial(self.kv.reserve, request.slot, computed + tokens)):
            return 0
        chunks.append((request, tokens))
        return tokens

    def _admit(self, budget: int, chunks: list[tuple[Request, int]]) -> None:
        """Moves those that wait to slots, in order, each with a chunk of its prompt. The first that does not fit ends
        it; who waits for a page that is being computed holds nobody up."""
        passed = 0
        while budget > 0 and passed < min(len(self.waiting), MOST_PASSED):
            request = self.waiting[passed]
            if request in self._void:
                return
            hit = self._find_prefix(request)
            if self._is_coming(request, hit):
                passed += 1
                continue
            if not self._fits(request, hit):
                return
            self._open(request, hit)
            budget -= self._add_chunk(request, budget, chunks)

    def _fits(self, request: Request, hit: PrefixHit) -> bool:
        """Whether there is a slot for a waiting request, and room beside a page for everyone who runs; if need be,
        those that come after it give theirs up."""
        while self.running:
            needed = request.num_tokens, self.max_tokens, len(self.running)
            if self.table.has_free and self.kv.can_admit(hit, *needed):
                return True
            last = self.running[-1]
            if self.order(last) < self.order(request):
                return False
            self.preempt(last)
        return True  # a context fits an empty cache

    def _open(self, request: Request, hit: PrefixHit) -> None:
        self.waiting.remove(request)
        slot = self.table.open(request, hit.tokens)
        self.kv.open(slot, hit)
        request.status = Status.RUNNING
        if request.preemptions == 0 and not request.output:
            request.num_cached = hit.tokens
            self.prefix_queries += request.num_tokens
            self.prefix_hits += hit.tokens
        self._join(request)

    def _is_coming(self, request: Request, hit: PrefixHit) -> bool:
        """Whether a running prefill is about to compute the page that the request's cached prefix lacks next: a step
        later it is there to share."""
        page = hit.tokens // self.kv.page_size
        if request.params.prompt_logprobs is not None or page >= (request.num_tokens - 1) // self.kv.page_size:
            return False
        if self._namer is None:
            return False
        name = request.page_names[page]
        return any(page < len(r.page_names) and r.page_names[page] == name for r in self._prefilling())

    def _prefilling(self) -> list[Request]:
        slots = self._running_slots()
        waiting = self.table.num_tokens[slots] - self.table.num_computed[slots] > 1
        return [self.running[i] for i in waiting.nonzero()[0].tolist()]

    def _find_prefix(self, request: Request) -> PrefixHit:
        """The cached prefix of a request, short of its last token: that one is computed for its logits."""
        names: list[bytes] = []
        if self._namer is not None:
            self._namer.extend(request.page_names, request.tokens(self._named(request)), request.salt)
            if request.params.prompt_logprobs is None:
                names = request.page_names[: (request.num_tokens - 1) // self.kv.page_size]
        return self.kv.find_prefix(names)

    def _plan(
        self, decodes: list[Request], chunks: list[tuple[Request, int]], copies: dict[Request, list[PageCopy]]
    ) -> StepPlan | None:
        if self._void:
            decodes = [r for r in decodes if r not in self._void]
            chunks = [(r, n) for r, n in chunks if r not in self._void]
            copies = {r: c for r, c in copies.items() if r not in self._void}
        requests = decodes + [r for r, _ in chunks]
        if not requests:
            return None
        slots = np.array([r.slot for r in requests], np.int32)
        num_new = np.ones(len(slots), np.int32)
        num_new[len(decodes) :] = [n for _, n in chunks]
        start = self.table.num_computed[slots]
        end = start + num_new
        samples = end == self.table.num_tokens[slots]
        all_copies = [copy for made in copies.values() for copy in made]
        return StepPlan(requests, slots, start, num_new, end, len(decodes), samples, all_copies)

    # -- after the step ------------------------------------------------------------------------------------------

    def advance(self, plan: StepPlan) -> None:
        """Books the step just scheduled as launched: what it computes counts as computed, and what it samples as there,
        unknown yet."""
        t, sampled = self.table, plan.slots[plan.samples]
        t.num_computed[plan.slots] = plan.end
        t.num_tokens[sampled] += 1
        t.in_flight[sampled] += 1

    def update(self, plan: StepPlan, tokens: np.ndarray) -> np.ndarray:
        """Books the result of a step that `advance` was told of. tokens: [B] sampled ids, meaningless where
        `plan.samples` is false; NO_TOKEN fails the request. Returns which requests it counted for, [B] bool: those
        cancelled or preempted meanwhile are passed over."""
        t, live = self.table, _running(plan)
        size = self.kv.page_size
        turned = live & (plan.end // size > plan.start // size)
        for i in turned.nonzero()[0].tolist():
            self._name_pages(plan.requests[i], int(plan.start[i]), int(plan.end[i]))
        sampled = (live & plan.samples).nonzero()[0]
        slots = plan.slots[sampled]
        t.last_token[slots] = tokens[sampled]
        t.in_flight[slots] -= 1
        self._append(plan, sampled.tolist(), tokens.tolist())
        return live

    def _append(self, plan: StepPlan, rows: list[int], tokens: list[int]) -> None:
        t, slots = self.table, plan.slots
        full = (t.num_tokens[slots] - t.in_flight[slots] >= t.limit[slots]).tolist()
        for i in rows:
            request, token = plan.requests[i], tokens[i]
            if token == NO_TOKEN:
                self.kv.forget_prefix(request.page_names)  # what it computed may be no numbers either
                self.finish(request, "error")
                continue
            request.output.append(token)
            if request.siblings:
                self._release_siblings(request)
            if token in request.stop_ids:
                self.finish(request, "stop", token)
            elif full[i]:
                self.finish(request, "length")

    def _name_pages(self, request: Request, start: int, end: int) -> None:
        """Pages that the step filled become findable, and those behind the window free."""
        size = self.kv.page_size
        if self._namer is not None:
            self._namer.extend(request.page_names, request.tokens(self._named(request), end), request.salt)
            self.kv.name_pages(request.slot, request.page_names, start // size, end // size)
        self.kv.free_behind_window(request.slot, end)

    def _named(self, request: Request) -> int:
        """Tokens of the request whose pages have names."""
        return len(request.page_names) * self.kv.page_size

    def _release_siblings(self, request: Request) -> None:
        """The prompt is done: its other completions share its pages, where there is a slot for them."""
        siblings, request.siblings = request.siblings, []
        for sibling in siblings:
            if request.status is Status.RUNNING and self.table.has_free:
                self.fork(request, sibling)
            else:
                self.add(sibling)

    def fork(self, parent: Request, child: Request) -> None:
        """Starts `child`, whose tokens so far are a prefix of the running parent's, on the parent's pages. It
        computes its last token again, for the logits."""
        computed = min(int(self.table.num_computed[parent.slot]), child.num_tokens - 1)
        slot = self.table.open(child, computed)
        self.kv.fork(parent.slot, slot, computed + 1)
        self.table.shared[[parent.slot, slot]] = True
        child.status, child.num_cached = Status.RUNNING, computed
        child.page_names = parent.page_names[: computed // self.kv.page_size]
        self._join(child)

    def preempt(self, request: Request) -> None:
        """Back to waiting, its pages given up."""
        self._void.add(request)
        self._leave(request)
        request.status = Status.WAITING
        request.preemptions += 1
        self.preemptions += 1
        self.add(request)

    # -- bookkeeping ---------------------------------------------------------------------------------------------

    def _join(self, request: Request) -> None:
        bisect.insort(self.running, request, key=self.order)
        self._slots = None

    def _leave(self, request: Request) -> None:
        self.running.remove(request)
        self._slots = None
        self.kv.release(request.slot)
        self.table.close(request.slot)
        request.slot = 0

    def _running_slots(self) -> np.ndarray:
        slots = self._slots
        if slots is None:
            self._slots = slots = np.array([r.slot for r in self.running], np.int32)
        return slots

    def check_integrity(self) -> None:
        """Raises AssertionError unless scheduler, table and KV cache agree. Cheap enough for tests, not for steps."""
        self.kv.check_integrity()
        slots = [r.slot for r in self.running]
        assert len({0, *slots}) == len(slots) + 1, "two requests share a slot, or one holds scratch"
        holders = [r for r in self.table.requests if r is not None]
        assert set(map(id, holders)) == set(map(id, self.running)), "table and running list disagree"
        for r in self.running:
            computed = int(self.table.num_computed[r.slot])
            tokens = r.num_tokens + int(self.table.in_flight[r.slot])
            assert self.table.num_tokens[r.slot] == tokens, f"{r.id}: token counts disagree"
            assert 0 <= computed < tokens, f"{r.id}: computed {computed} of {tokens}"
            assert computed <= self.kv.num_pages[r.slot] * self.kv.page_size, f"{r.id}: computed past its pages"
        free = np.setdiff1d(np.arange(len(self.table.requests)), [0, *slots])
        assert not self.kv.num_pages[free].any(), "a free slot holds pages"
        for queue in (self.running, self.waiting):
            assert queue == sorted(queue, key=self.order), "a queue is out of order"


def _running(plan: StepPlan) -> np.ndarray:
    """[B] bool: whose requests nobody has ended or preempted since the plan was made."""
    return np.array([r.status is Status.RUNNING for r in plan.requests])
