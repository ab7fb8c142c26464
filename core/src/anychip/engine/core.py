"""The engine's heart: one thread, one loop body. Knows requests and steps, nothing of text or HTTP."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from anychip_sdk.contract import DeviceError, KVLayout, NotSupported, OutOfMemory

from anychip.engine.options import EngineOptions
from anychip.errors import RequestError
from anychip.kvcache.cache import KVCache
from anychip.outputs import EngineStats, Logprob, TokenLogprobs
from anychip.request import Request, Status
from anychip.runner.executor import Executor
from anychip.runner.random_numbers import child_seed
from anychip.runner.runner import InFlight, Runner, StepResult
from anychip.sampling_params import MAX_LOGPROBS, SamplingParams
from anychip.scheduler.plan import StepPlan
from anychip.scheduler.scheduler import Scheduler
from anychip.scheduler.table import RequestTable

MAX_SALT = 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What one step did to one request. `error` says why, when it failed."""

    request: Request
    token: int | None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    start: int = 0
    """position before the first of `prompt_logprobs`: a preempted request computes its prompt again"""
    error: str | None = None


class EngineCore:
    """Not thread-safe: whoever steps it also adds and cancels."""

    def __init__(
        self,
        executor: Executor,
        layout: KVLayout,
        options: EngineOptions,
        *,
        step_tokens: int,
        max_model_len: int,
        vocab_size: int,
        eos_ids: frozenset[int],
    ) -> None:
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self.eos_ids = eos_ids
        self.kv = KVCache(layout, max_model_len)
        self.table = RequestTable(layout.slots)
        self.scheduler = Scheduler(
            self.kv,
            self.table,
            max_tokens=step_tokens,
            max_chunk=options.max_prefill_chunk,
            policy=options.policy,
            prefix_caching=options.prefix_caching,
        )
        self._executor = executor
        self._runner = Runner(executor, self.table, self.kv)
        self._in_flight: InFlight | None = None  # with an asynchronous device
        self._arrivals = 0
        self._steps = self._prompt_tokens = self._generated = 0

    # -- requests ------------------------------------------------------------------------------------------------

    def make(
        self, id: str, prompt: Sequence[int], params: SamplingParams, *, priority: int = 0, salt: str = ""
    ) -> list[Request]:
        """The request's completions, checked and ready for `add`. Raises RequestError. Touches nothing that
        `step` does, so other threads may call it."""
        tokens = self._check_prompt(prompt, params)
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise RequestError(f"priority is {priority!r:.60}; expected a whole number", "priority")
        if not isinstance(salt, str) or len(salt) > MAX_SALT or any("\ud800" <= c <= "\udfff" for c in salt):
            expected = f"valid Unicode text of at most {MAX_SALT} characters"
            raise RequestError(f"cache_salt is {salt!r:.60}; expected {expected}", "cache_salt")
        if priority and not self.scheduler.by_priority:
            raise RequestError(
                f"priority is {priority}, but the engine serves in order of arrival; start it with --policy priority",
                "priority",
            )
        seed = secrets.randbits(63) if params.seed is None else params.seed
        room = self.max_model_len if params.max_tokens is None else len(tokens) + params.max_tokens
        stops = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else self.eos_ids)
        if self.vocab_size < MAX_LOGPROBS:
            params = _at_most(params, self.vocab_size)
        requests = []
        for index in range(params.n):
            one = params if index == 0 else replace(params, prompt_logprobs=None)
            name = id if params.n == 1 else f"{id}-{index}"
            limit = min(room, self.max_model_len)
            request = Request(name, tokens, one, child_seed(seed, index), stops, limit, 0, priority, salt)
            requests.append(request)
        return requests

    def _check_prompt(self, prompt: Sequence[int], params: SamplingParams) -> np.ndarray:
        if len(prompt) == 0:
            raise RequestError("the prompt is empty; expected at least one token", "prompt")
        if len(prompt) >= self.max_model_len:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens; this engine's context of {self.max_model_len} must hold it and "
                f"at least one new token: shorten the prompt to {self.max_model_len - 1} tokens",
                "prompt",
            )
        self._check_tokens(prompt)
        if params.min_tokens > (room := self.max_model_len - len(prompt)):
            raise RequestError(
                f"min_tokens is {params.min_tokens}; expected at most {room}, which is what the prompt's {len(prompt)} "
                f"tokens leave of this engine's context of {self.max_model_len}",
                "min_tokens",
            )
        for name, tokens in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            if (worst := max(tokens, default=0)) >= self.vocab_size:
                raise RequestError(f"{name} holds {worst}; expected ids from 0 to {self.vocab_size - 1}", name)
        return np.asarray(prompt, np.int32)

    def _check_tokens(self, prompt: Sequence[int]) -> None:
        """By their types and extremes, as a loop over each of a long prompt would hold a server's other clients up."""
        whole = all(issubclass(kind, int | np.integer) and kind is not bool for kind in set(map(type, prompt)))
        if whole and min(prompt) >= 0 and max(prompt) < self.vocab_size:
            return
        wrong = next(
            t
            for t in prompt
            if isinstance(t, bool) or not isinstance(t, int | np.integer) or not 0 <= t < self.vocab_size
        )
        raise RequestError(f"the prompt holds {wrong!r}; expected token ids from 0 to {self.vocab_size - 1}", "prompt")

    def add(self, requests: list[Request]) -> None:
        """Takes what `make` made. The first one computes the prompt; the others wait for its pages."""
        first, *others = requests
        for request in requests:
            request.arrival = self._arrivals
            self._arrivals += 1
        first.siblings = others
        self.scheduler.add(first)
        self._prompt_tokens += len(first.prompt)

    def cancel(self, request: Request, reason: str = "abort") -> None:
        """Ends a request in any state; its pages are free at once."""
        self.scheduler.finish(request, "stop" if reason == "stop" else "abort")

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self._in_flight is not None

    # -- the loop body -------------------------------------------------------------------------------------------

    def step(self) -> list[Event]:
        """Schedules, runs and books one step. An asynchronous device is given the next step before the result of the
        last one is taken from it. A device fault fails the step's requests and no others."""
        events: list[Event] = []
        if self.scheduler.counts_outputs:  # of which those in flight are unknown
            events += self._collect()
        plan = self.scheduler.schedule()
        before, self._in_flight = self._in_flight, None
        if plan is not None:
            events = _with_errors(events, self._launch(plan))
        if before is not None:
            events += self._book(before)
        if not self._executor.asynchronous:
            events += self._collect()
        return events

    def _launch(self, plan: StepPlan) -> list[Event]:
        for request in plan.requests[plan.num_decodes :]:
            request.started = request.started or perf_counter()
        try:
            self._in_flight = self._runner.launch(plan)
        except Exception as error:  # of a plugin's code, which raises what it likes
            # Nothing of the step counts yet, so the others can go on without whoever came last. A page copy may not
            # have been made.
            alone = isinstance(error, OutOfMemory | MemoryError) and not plan.copies
            newest = max(plan.requests, key=self.scheduler.order)
            return self._fail([newest] if alone else plan.requests, error)
        self.scheduler.advance(plan)
        self._steps += 1
        return []

    def _collect(self) -> list[Event]:
        """Waits for the step in flight, if there is one, and books it."""
        step, self._in_flight = self._in_flight, None
        return [] if step is None else self._book(step)

    def _book(self, step: InFlight) -> list[Event]:
        try:
            result = self._runner.collect(step)
        except Exception as error:  # as above
            return self._fail([r for r in step.plan.requests if r.status is not Status.FINISHED], error)
        return self._events(result, self.scheduler.update(step.plan, result.tokens))

    def _fail(self, requests: list[Request], error: Exception) -> list[Event]:
        if not isinstance(error, DeviceError | NotSupported | MemoryError):
            logger.error("a step failed with an error that the contract does not know", exc_info=error)
        for request in requests:
            self.scheduler.finish(request, "error")
        said = " ".join(f"the device failed: {type(error).__name__}: {error}".splitlines())
        return [Event(request, None, error=said) for request in requests]

    def _events(self, result: StepResult, live: np.ndarray) -> list[Event]:
        """live: [B] bool, whom the step counted for."""
        plan, sampled = result.plan, result.sampled
        prompts = {seq: self._logprobs(result, row, count) for seq, row, count in result.rows.prompt if live[seq]}
        events = []
        for row, i in enumerate(result.rows.sampling.tolist()):
            request = plan.requests[i]
            if not live[i]:
                continue
            self._generated += 1
            if request.finish_reason == "error":
                events.append(Event(request, None, error="the model's logits are not numbers (NaN) for this request"))
                continue
            logprobs = None
            if sampled.logprob is not None and request.params.logprobs is not None:
                logprobs = self._logprobs(result, row, 1, request.params.logprobs)[0]
            prompt = tuple(prompts.pop(i, ()))
            events.append(Event(request, int(result.tokens[i]), logprobs, prompt, int(plan.start[i])))
        events += [
            Event(plan.requests[i], None, prompt_logprobs=tuple(found), start=int(plan.start[i]))
            for i, found in prompts.items()
        ]
        return events

    def _logprobs(self, result: StepResult, row: int, count: int, top: int | None = None) -> list[TokenLogprobs]:
        """Of `count` rows from `row` on. top: alternatives per row; None: what the request asked of its prompt."""
        s, rows = result.sampled, result.rows
        assert s.logprob is not None and s.rank is not None  # noqa: PT018
        if top is None:
            seq = next(seq for seq, first, _ in rows.prompt if first == row)
            top = result.plan.requests[seq].params.prompt_logprobs or 0
        found = []
        for r in range(row, row + count):
            token = int(rows.targets[r]) - 1 if rows.targets[r] else int(s.tokens[r])
            best: tuple[Logprob, ...] = ()
            if top and s.top_tokens is not None and s.top_logprobs is not None:
                pairs = zip(s.top_tokens[r, :top].tolist(), s.top_logprobs[r, :top].tolist(), strict=True)
                best = tuple(Logprob(t, p, rank) for rank, (t, p) in enumerate(pairs, 1))
            found.append(TokenLogprobs(Logprob(token, float(s.logprob[r]), int(s.rank[r])), best))
        return found

    # -- housekeeping --------------------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        s = self.scheduler
        return EngineStats(
            running=len(s.running),
            waiting=len(s.waiting),
            kv_usage=self.kv.usage,
            preemptions=s.preemptions,
            prefix_queries=s.prefix_queries,
            prefix_hits=s.prefix_hits,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            steps=self._steps,
        )

    def close(self) -> None:
        """Ends every request and gives the device back."""
        self._collect()
        for request in [*self.scheduler.running, *self.scheduler.waiting]:
            self.cancel(request)
        self._executor.close()


def _at_most(params: SamplingParams, vocab_size: int) -> SamplingParams:
    """With no more alternatives beside a token than there are tokens."""
    asked = {name: getattr(params, name) for name in ("logprobs", "prompt_logprobs")}
    return replace(params, **{name: min(top, vocab_size) for name, top in asked.items() if top is not None})


def _with_errors(events: list[Event], failed: list[Event]) -> list[Event]:
    """One event a request: what it was given by the step before, and why the next one failed."""
    errors = {event.request: event for event in failed}
    merged = [replace(e, error=errors.pop(e.request).error) if e.request in errors else e for e in events]
    return merged + list(errors.values())
