"""A device that runs steps while the next one is prepared: the same outputs as step by step."""

from __future__ import annotations

from dataclasses import replace

import checkpoints
import pytest
from anychip import LLM, SamplingParams
from anychip_sdk.contract import DeviceError, OutOfMemory

PROMPTS = checkpoints.prompts(6, (5, 9, 17, 30))
GREEDY = SamplingParams(temperature=0, max_tokens=9, detokenize=False)
MIXED = [
    GREEDY,
    replace(GREEDY, temperature=1.3, seed=4, n=3, max_tokens=14),
    replace(GREEDY, temperature=0.8, seed=1, repetition_penalty=1.4, frequency_penalty=0.5),
    replace(GREEDY, logprobs=2, prompt_logprobs=1, max_tokens=7),
    replace(GREEDY, temperature=2.0, seed=9, min_tokens=6, stop_token_ids=list(range(0, 96, 2)), max_tokens=12),
    replace(GREEDY, temperature=2.0, seed=2, stop_token_ids=list(range(0, 96, 3)), max_tokens=16),
]


class Watched:
    """Results that tell when they are asked for."""

    def __init__(self, pending, number, log):
        self._pending, self._number, self._log = pending, number, log

    def get(self):
        self._log.append(("get", self._number))
        return self._pending.get()


def asynchronous(llm, monkeypatch, fail=None):
    """Makes the engine run a step ahead. Returns the log of its launches and results."""
    executor, log = llm._core._executor, []
    launch = executor.launch

    def watched(key, buffer, exact):
        number = sum(kind == "launch" for kind, _ in log)
        log.append(("launch", number))
        if fail is not None:
            fail(number)
        return Watched(launch(key, buffer, exact), number, log)

    monkeypatch.setattr(executor, "asynchronous", True)
    monkeypatch.setattr(executor, "launch", watched)
    return log


def made(llm, params=MIXED):
    outputs = llm.generate(PROMPTS, params)
    return [
        ([(c.token_ids, c.finish_reason, c.stop_reason) for c in o.outputs], o.prompt_logprobs, o.error)
        for o in outputs
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"page_size": 4, "kv_pages": 26}, {"max_num_seqs": 2}, {"max_num_batched_tokens": 7}],
    ids=["roomy", "few pages", "few slots", "small steps"],
)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_outputs_are_the_same(checkpoint, monkeypatch, family, options):
    def engine():
        return LLM(checkpoint(family)[0], "numpy", skip_tokenizer=True, dtype="float32", **options)

    with engine() as llm:
        wanted = made(llm)
    with engine() as llm:
        log = asynchronous(llm, monkeypatch)
        for _ in range(2):  # the second finds its prompts cached
            got = made(llm)
            assert [o[0] for o in got] == [o[0] for o in wanted]
            assert [o[2] for o in got] == [None] * len(got)
        llm._core.scheduler.check_integrity()
        assert llm._core.kv.usage == 0
        assert "kv_pages" not in options or llm.stats().preemptions > 0
    assert [n for kind, n in log if kind == "get"] == sorted(n for kind, n in log if kind == "launch")


def test_the_next_step_is_launched_before_the_last_ones_result_is_taken(checkpoint, monkeypatch):
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, dtype="float32") as llm:
        log = asynchronous(llm, monkeypatch)
        llm.generate(PROMPTS, GREEDY)
    for number in range(1, 8):
        assert log.index(("launch", number)) < log.index(("get", number - 1))
        assert number < 2 or log.index(("get", number - 2)) < log.index(("launch", number))


def test_a_prompt_waits_for_the_pages_that_leave_its_window(checkpoint, monkeypatch):
    """The step in flight frees them. Who gave up its own instead would begin again for ever."""
    prompt, directory = checkpoints.prompts(1, (54,))[0], checkpoint("mistral")[0]
    with LLM(directory, "numpy", skip_tokenizer=True, dtype="float32") as llm:
        wanted = llm.generate(prompt, GREEDY)[0].outputs[0].token_ids
    options = {"page_size": 4, "kv_pages": 8, "max_num_batched_tokens": 16}
    with LLM(directory, "numpy", skip_tokenizer=True, dtype="float32", **options) as llm:
        asynchronous(llm, monkeypatch)
        (request,) = llm._core.make("one", prompt, GREEDY)
        llm._core.add([request])
        for _ in range(60):
            llm._core.step()
            llm._core.scheduler.check_integrity()
        assert request.output == wanted
        assert llm.stats().preemptions == 0


def test_prompt_logprobs_stand_once_though_the_prompt_is_computed_twice(checkpoint, monkeypatch):
    params = replace(GREEDY, prompt_logprobs=1, max_tokens=12)
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, page_size=4, kv_pages=24) as llm:
        for o in llm.generate(PROMPTS, params):
            assert len(o.prompt_logprobs) == len(o.prompt_token_ids)
        assert llm.stats().preemptions > 0


@pytest.mark.parametrize("step", [0, 1, 4])
@pytest.mark.parametrize("where", ["launch", "result"])
def test_a_fault_costs_its_step(checkpoint, monkeypatch, step, where):
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, dtype="float32") as llm:
        wanted = made(llm, GREEDY)

        def fail(number):
            if number == step and where == "launch":
                raise DeviceError("a planted fault")

        with monkeypatch.context() as patched:
            log = asynchronous(llm, patched, fail)
            if where == "result":
                get = Watched.get

                def failing(self):
                    if self._number == step:
                        raise DeviceError("a planted fault")
                    return get(self)

                patched.setattr(Watched, "get", failing)
            assert all("planted fault" in o[2] for o in made(llm, GREEDY))
            assert log
            assert llm._core.kv.usage == 0
        assert made(llm, GREEDY) == wanted


def test_a_fault_is_told_beside_the_token_of_the_step_before(checkpoint, monkeypatch):
    """Outputs that count hold a step back until the last one's result is there: one call brings both."""

    def fail(number):
        if number == 3:
            raise DeviceError("a planted fault")

    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, dtype="float32") as llm:
        asynchronous(llm, monkeypatch, fail)
        (output,) = llm.generate(PROMPTS[0], replace(GREEDY, repetition_penalty=1.2))
    assert "planted fault" in output.error
    assert len(output.outputs[0].token_ids) == 3


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("step", [0, 1, 4])
def test_out_of_memory_costs_the_newest_request(checkpoint, monkeypatch, step, ahead):
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, dtype="float32") as llm:
        wanted = made(llm, GREEDY)
        log = asynchronous(llm, monkeypatch, lambda number: number == step and _no_memory())
        monkeypatch.setattr(llm._core._executor, "asynchronous", ahead)
        got = made(llm, GREEDY)
        assert log
        assert got[:-1] == wanted[:-1]
        assert "no memory here" in got[-1][2]
        assert llm._core.kv.usage == 0


def _no_memory():
    raise OutOfMemory("no memory here")
