"""Tiny random models through the whole engine, against the oracle's tokens: exact in float32, near ties only in 16
bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from anychip_sdk.conformance.marks import check, full
from anychip_sdk.conformance.models import prompts
from anychip_sdk.conformance.numerics import EPS
from anychip_sdk.conformance.parity import Model, greedy
from anychip_sdk.contract import Device, DType, KVDType, StepPlugin

Models = Callable[..., Model]
COUNT = 10


def lengths(page_size: int) -> tuple[int, ...]:
    """Around a page, a single token, and more than two pages."""
    return (1, 5, page_size - 1 or 1, page_size, page_size + 1, 2 * page_size + 7)


def compare(model: Model, page_size: int, count: int = COUNT, what: str = "", **options: object) -> None:
    asked = prompts(lengths(page_size), model.seed)
    engine = model.engine(page_size=page_size, **options)
    done = engine.generate(asked, greedy(count))
    engine.check_idle()
    engine.close()
    model.check(asked, done, count, what)


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_greedy_tokens_are_the_oracle_s(model: Models, kv_dtype: DType, page_size: int, family: str) -> None:
    """Grouped queries, biases, q/k norms, tied and untied heads."""
    compare(model(family, kv_dtype), page_size)


@check(since="1.0", profile="swa")
def test_greedy_tokens_with_windows(model: Models, kv_dtype: DType, page_size: int) -> None:
    """Long enough that pages fall behind the window and are given to others."""
    compare(model("mistral", kv_dtype), page_size, count=2 * page_size + 4)


@check(since="1.0", profile="softcap")
def test_greedy_tokens_with_softcaps(model: Models, kv_dtype: DType, page_size: int) -> None:
    """Gemma: softcaps, two KV groups, norms around each part, two rope tables."""
    compare(model("gemma3", kv_dtype), page_size, count=page_size + 4)


@check(since="1.0", profile="moe")
def test_greedy_tokens_with_experts(model: Models, kv_dtype: DType, page_size: int) -> None:
    compare(model("mixtral", kv_dtype), page_size)


@check(since="1.0")
@pytest.mark.parametrize("chunk", [1, 3, full(16), 17])
def test_a_chunked_prompt_is_the_whole_prompt(model: Models, kv_dtype: DType, page_size: int, chunk: int) -> None:
    compare(model("llama", kv_dtype), page_size, max_prefill_chunk=chunk, max_num_batched_tokens=24)


@check(since="1.0", profile="swa")
def test_chunks_within_windows(model: Models, kv_dtype: DType, page_size: int) -> None:
    compare(model("mistral", kv_dtype), page_size, max_prefill_chunk=7, max_num_batched_tokens=16)


@check(since="1.0")
def test_a_prefix_hit_is_a_cold_start(model: Models, kv_dtype: DType, page_size: int) -> None:
    _prefix_hits(model("llama", kv_dtype), page_size)


def _prefix_hits(tested: Model, page_size: int) -> None:
    asked = prompts((3 * page_size + 2,), tested.seed)
    asked += [asked[0][: 2 * page_size] + prompts((9,), 5)[0], asked[0]]
    asked += [asked[0][:page_size] + prompts((page_size,), 6)[0] + asked[0][2 * page_size :]]
    engine = tested.engine(page_size=page_size)
    first = engine.generate(asked[:1], greedy(COUNT))
    again = engine.generate(asked, greedy(COUNT))
    assert first[0].cached == 0
    found = [d.cached // page_size for d in again]
    assert found == [3, 2, 3, 1], f"{found} pages of cached prefixes were found; expected [3, 2, 3, 1]"
    engine.check_idle()
    engine.close()
    tested.check(asked[:1], first, COUNT, "cold: ")
    tested.check(asked, again, COUNT, "with cached prefixes: ")


@check(since="1.0")
def test_tenants_do_not_share_prefixes(model: Models, kv_dtype: DType, page_size: int) -> None:
    tested = model("llama", kv_dtype)
    asked = prompts((2 * page_size + 3,), tested.seed)
    engine = tested.engine(page_size=page_size)
    cached = [engine.generate(asked, greedy(2), salt=salt)[0].cached for salt in ("a", "b", "a")]
    engine.close()
    assert cached == [0, 0, 2 * page_size], f"tenants a, b and a again found {cached} cached tokens"


@check(since="1.0")
def test_a_preempted_request_is_an_uninterrupted_one(model: Models, kv_dtype: DType, page_size: int) -> None:
    """Too few pages for all: some are stopped, give up theirs, and are computed again."""
    _preempted(model("llama", kv_dtype), page_size)


def _preempted(tested: Model, page_size: int) -> None:
    asked = prompts((page_size + 3,) * 4, tested.seed)
    count = 2 * page_size
    for caching in (False, True):
        engine = tested.engine(page_size=page_size, kv_pages=11, prefix_caching=caching)
        done = engine.generate(asked, greedy(count))
        assert any(d.preemptions for d in done), "the check is not fit for use: nothing was preempted"
        engine.check_idle()
        engine.close()
        tested.check(asked, done, count, "preempted: ")


@check(since="1.0")
def test_completions_of_one_prompt_part_ways(model: Models, kv_dtype: DType, page_size: int) -> None:
    """n = 3: the prompt's pages are shared, and copied by whoever writes into one first."""
    _forks(model("llama", kv_dtype), page_size)


def _forks(tested: Model, page_size: int) -> None:
    asked = prompts((page_size + 5,), tested.seed)
    params = greedy(COUNT, temperature=1.0, seed=7, n=3)
    engine, oracle = tested.engine(page_size=page_size), tested.oracle(page_size=page_size)
    found = []
    for one in (engine, oracle):
        made = one.core.make("forks", asked[0], params)
        one.core.add(made)
        found.append([d.tokens for d in one.finish(made)])
        one.check_idle()
        one.close()
    mine, right = found
    assert len({tuple(t) for t in mine}) == 3, "completions of one prompt have the same random numbers"
    if tested.exact:
        assert mine == right, "sampled completions differ from the oracle's"


@pytest.fixture
def in_8_bits(model: Models, opened: Device | StepPlugin, kv8: KVDType) -> Callable[[str], Model]:
    """family -> its model with KV in 8 bits, and the rest in the device's preferred dtype."""
    return lambda family: model(family, opened.capabilities.weight_dtypes[0], kv8)


@check(since="1.2", profile="kv8")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", full("mixtral")])
def test_greedy_tokens_with_kv_in_8_bits(in_8_bits: Callable[[str], Model], page_size: int, family: str) -> None:
    """The oracle's, but for near ties of a reference that rounds K and V so."""
    compare(in_8_bits(family), page_size, count=page_size + 4)


@check(since="1.2", profile="kv8")
def test_chunks_in_8_bits(in_8_bits: Callable[[str], Model], page_size: int) -> None:
    compare(in_8_bits("llama"), page_size, max_prefill_chunk=3, max_num_batched_tokens=24)


@check(since="1.2", profile="kv8")
def test_prefix_hits_in_8_bits(in_8_bits: Callable[[str], Model], page_size: int) -> None:
    _prefix_hits(in_8_bits("llama"), page_size)


@check(since="1.2", profile="kv8")
def test_preempted_in_8_bits(in_8_bits: Callable[[str], Model], page_size: int) -> None:
    _preempted(in_8_bits("llama"), page_size)


@check(since="1.2", profile="kv8")
def test_completions_part_ways_in_8_bits(in_8_bits: Callable[[str], Model], page_size: int) -> None:
    """Greedy as well: the same prompt's completions write into copies of one page, and stay the same."""
    tested = in_8_bits("llama")
    _forks(tested, page_size)
    asked, engine = prompts((page_size + 5,), tested.seed), tested.engine(page_size=page_size)
    made = engine.core.make("same", asked[0], greedy(COUNT, n=2))
    engine.core.add(made)
    done = engine.finish(made)
    engine.close()
    tested.check([*asked, *asked], done, COUNT, "forked: ")


@check(since="1.0")
def test_sampled_tokens_are_the_oracle_s(model: Models, kv_dtype: DType, page_size: int) -> None:
    """Seeded requests with every kind of parameter; in 16 bits they must be repeatable."""
    tested = model("llama", kv_dtype)
    asked = prompts((4, page_size, 9, 21), tested.seed)
    params = [
        greedy(COUNT, temperature=0.9, seed=1),
        greedy(COUNT, temperature=1.2, seed=2, top_p=0.8, top_k=30),
        greedy(COUNT, temperature=0.7, seed=3, min_p=0.05, repetition_penalty=1.2),
        greedy(COUNT, presence_penalty=0.8, frequency_penalty=0.4, logit_bias={3: 2.0, 9: -4.0}),
    ]
    engine = tested.engine(page_size=page_size)
    first, second = ([d.tokens for d in engine.generate(asked, params)] for _ in range(2))
    engine.check_idle()
    engine.close()
    assert first == second, "a seeded request gives other tokens the second time"
    if tested.exact:
        oracle = tested.oracle(page_size=page_size)
        wanted = [d.tokens for d in oracle.generate(asked, params)]
        oracle.close()
        assert first == wanted, "sampled tokens differ from the oracle's"


@check(since="1.0")
def test_logprobs_are_the_oracle_s(model: Models, kv_dtype: DType, page_size: int) -> None:
    """Of the prompt's tokens, to within twice the reference engine's error."""
    tested = model("qwen3", kv_dtype)
    asked = prompts((2 * page_size + 5, 7), tested.seed)
    engine = tested.engine(page_size=page_size)
    mine = [np.array(d.prompt_logprobs) for d in engine.generate(asked, greedy(1, prompt_logprobs=1))]
    engine.close()
    oracle = tested.oracle(page_size=page_size)
    right = [np.array(d.prompt_logprobs) for d in oracle.generate(asked, greedy(1, prompt_logprobs=1))]
    oracle.close()
    allowed = 2 * tested.e_ref + EPS["float32"] * max(np.abs(r).max() for r in right)
    worst = max(float(np.abs(a - b).max()) for a, b in zip(mine, right, strict=True))
    assert worst <= allowed, f"a logprob is {worst:.3g} off, allowed {allowed:.3g}"


@check(since="1.0", level="gold", tier="certify")
def test_soak(model: Models, kv_dtype: DType, page_size: int) -> None:
    """Hundreds of requests of all lengths come, share prefixes, are preempted and cancelled, in random order."""
    tested, rng = model("llama", kv_dtype), np.random.default_rng(1)
    engine = tested.engine(page_size=page_size, kv_pages=17)
    heads = prompts((page_size, 2 * page_size), tested.seed)
    for _ in range(40):
        asked = [
            [*heads[rng.integers(2)][: rng.integers(2 * page_size)], *prompts((int(rng.integers(1, 30)),), int(s))[0]]
            for s in rng.integers(0, 2**31, 8)
        ]
        requests = [engine.add(p, greedy(COUNT)) for p in asked]
        gone = set(rng.choice(8, 2, replace=False).tolist())
        at = engine.executor.launches + int(rng.integers(1, 6))

        def cancel(number: int, at: int = at, requests: list[Any] = requests, gone: set[int] = gone) -> None:
            if number == at:
                for i in gone:
                    engine.core.cancel(requests[i])

        engine.executor.before = cancel
        done = engine.finish(requests)
        kept = [i for i in range(8) if i not in gone]
        engine.check_idle()
        tested.check([asked[i] for i in kept], [done[i] for i in kept], COUNT, "soak: ")
    engine.close()
