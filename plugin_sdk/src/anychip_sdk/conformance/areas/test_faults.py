"""A fault costs the requests it touches: pages come back, and the next request is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from anychip_sdk.conformance.engines import Done, Engine
from anychip_sdk.conformance.marks import check, full
from anychip_sdk.conformance.models import POISON, prompts
from anychip_sdk.conformance.parity import Model, greedy
from anychip_sdk.contract import Device, DeviceError, DType, OutOfMemory, StepPlugin
from anychip_sdk.contract import Layer as LayerSpec

Models = Callable[[str, DType], Model]
COUNT = 6
PLANTED = "planted by the conformance suite"


@pytest.fixture
def tested(model: Models, opened: Device | StepPlugin) -> Model:
    claims = opened.capabilities
    return model("llama", next(d for d in claims.weight_dtypes if d in claims.kv_dtypes))


def asked(tested: Model, page_size: int) -> list[list[int]]:
    return prompts((5, page_size + 3, 2 * page_size + 1), tested.seed)


def right_afterwards(tested: Model, engine: Engine, page_size: int, what: str) -> None:
    """No page is held, and the very same requests, whose prompts may now be cached, give the oracle's tokens."""
    engine.check_idle()
    done = engine.generate(asked(tested, page_size), greedy(COUNT))
    tested.check(asked(tested, page_size), done, COUNT, what)
    engine.check_idle()


def all_failed(done: Sequence[Done], what: str) -> None:
    for i, one in enumerate(done):
        assert one.error is not None, f"{what}: request {i} of the failed step did not fail"
        assert PLANTED in one.error, f"{what}: request {i} failed, but its error does not say why: {one.error}"


def failing_at(tested: Model, page_size: int, step: int, kind: type[DeviceError]) -> Engine:
    engine = tested.engine(page_size=page_size)

    def fail(number: int) -> None:
        if number == step:
            raise kind(PLANTED)

    engine.executor.before = fail
    return engine


@check(since="1.0")
@pytest.mark.parametrize("step", [1, 2, 4, full(7)])
def test_a_step_that_fails(tested: Model, page_size: int, step: int) -> None:
    """At its launch: in the first prefill, and among decodes."""
    engine = failing_at(tested, page_size, step, DeviceError)
    all_failed(engine.generate(asked(tested, page_size), greedy(COUNT + 2)), f"step {step}")
    right_afterwards(tested, engine, page_size, f"after a failed step {step}: ")
    engine.close()


@check(since="1.0")
@pytest.mark.parametrize("step", [1, 2, 4, full(7)])
def test_a_step_without_memory(tested: Model, page_size: int, step: int) -> None:
    """Costs the request that came last; the others run the step again without it."""
    engine, good = failing_at(tested, page_size, step, OutOfMemory), asked(tested, page_size)
    done = engine.generate(good, greedy(COUNT + 2))
    all_failed(done[-1:], f"step {step}")
    tested.check(good[:-1], done[:-1], COUNT + 2, f"beside a request that failed in step {step}: ")
    right_afterwards(tested, engine, page_size, f"after a step {step} without memory: ")
    engine.close()


class _Faulty:
    """Stands before an object of the device; some of its attributes are others."""

    def __init__(self, inner: Any, **others: Any) -> None:
        self._inner, self._others = inner, others

    def __getattr__(self, name: str) -> Any:
        return self._others[name] if name in self._others else getattr(self._inner, name)


@check(since="1.0")
@pytest.mark.parametrize("layer", [0, 2])
def test_an_op_that_raises_in_a_layer(tested: Model, page_size: int, device: Device, layer: int) -> None:
    """Layers before it have written their KV by then. A scan traces one block for all its layers, and raises there."""
    raised: list[int] = []

    def wrap(ops: Any) -> Any:
        def run(q: Any, k: Any, v: Any, kv: Any, batch: Any, spec: LayerSpec, **rest: Any) -> Any:
            here = not isinstance(spec.kv_index, int) or spec.kv_index == layer
            if here and not raised:
                raised.append(layer)
                raise DeviceError(PLANTED)
            return ops.attention.run(q, k, v, kv, batch, spec, **rest)

        return _Faulty(ops, attention=_Faulty(ops.attention, run=run))

    engine = tested.engine(page_size=page_size, wrap=wrap)
    all_failed(engine.generate(asked(tested, page_size), greedy(COUNT)), f"layer {layer}")
    right_afterwards(tested, engine, page_size, f"after an op raised in layer {layer}: ")
    engine.close()


@check(since="1.0")
def test_nan_logits_fail_their_request_alone(tested: Model, page_size: int) -> None:
    """One prompt holds a token whose embedding is NaN. Its pages then hold NaN, and are given to others."""
    engine = tested.engine(page_size=page_size, poison=True)
    bad = [[1, 2, POISON, 3], [*range(page_size), POISON]]
    good = asked(tested, page_size)
    for _ in range(2):
        done = engine.generate([good[0], bad[0], good[1], bad[1], good[2]], greedy(COUNT))
        for i in (1, 3):
            assert done[i].error is not None, f"request {i}, whose logits are NaN, did not fail"
        tested.check(good, [done[i] for i in (0, 2, 4)], COUNT, "beside a request with NaN: ")
        engine.check_idle()
    engine.core.kv.forget_prefixes()  # every page is written anew
    right_afterwards(tested, engine, page_size, "after requests with NaN: ")
    engine.close()


@check(since="1.0")
@pytest.mark.parametrize("step", [1, 3])
def test_cancelled_in_the_middle_of_a_step(tested: Model, page_size: int, step: int) -> None:
    """The step is under way when its request goes: its pages are free at once, and the others do not notice."""
    engine, good = tested.engine(page_size=page_size), asked(tested, page_size)
    requests = [engine.add(p, greedy(COUNT)) for p in good]

    def cancel(number: int) -> None:
        if number == step:
            engine.core.cancel(requests[1])

    engine.executor.before = cancel
    done = engine.finish(requests)
    assert len(done[1].tokens) < COUNT, "a cancelled request went on to its end"
    tested.check([good[0], good[2]], [done[0], done[2]], COUNT, "beside a cancelled request: ")
    right_afterwards(tested, engine, page_size, "after a cancelled request: ")
    engine.close()


@check(since="1.0")
def test_a_page_copy_that_fails(tested: Model, page_size: int) -> None:
    """Completions of one prompt copy the page they share before they write into it; the first copy fails."""
    engine = tested.engine(page_size=page_size)

    def fail(call: int) -> None:
        if call == 1:
            raise OutOfMemory(PLANTED)

    engine.executor.before_copy = fail
    made = engine.core.make("forks", asked(tested, page_size)[1], greedy(COUNT, temperature=1.0, seed=3, n=3))
    engine.core.add(made)
    done = engine.finish(made)
    assert engine.executor.copies, "the check is not fit for use: no page was copied"
    assert any(d.error is not None for d in done), "no request failed though a copy of its page did"
    right_afterwards(tested, engine, page_size, "after a failed page copy: ")
    engine.close()
