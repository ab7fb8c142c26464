"""A fault costs the requests it touches, and nothing else."""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from anychip import LLM, AsyncEngine, EngineOptions, RequestError, SamplingParams
from anychip.errors import AnychipError, EngineDeadError, ModelError
from anychip_sdk.contract import DeviceError

PROMPTS = checkpoints.prompts(4, (5, 9, 17, 30))
GREEDY = SamplingParams(temperature=0, max_tokens=8, detokenize=False)


@pytest.fixture
def llm(checkpoint):
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, dtype="float32", prefix_caching=False) as engine:
        yield engine
        engine._core.scheduler.check_integrity()
        assert engine._core.kv.usage == 0


def test_a_device_error_fails_its_step_only(llm, monkeypatch):
    wanted = [o.outputs[0].token_ids for o in llm.generate(PROMPTS, GREEDY)]
    executor = llm._core._executor
    launch, calls = executor.launch, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise DeviceError("a planted fault")
        return launch(*args)

    monkeypatch.setattr(executor, "launch", failing)
    failed = llm.generate(PROMPTS, GREEDY)
    assert all(o.outputs[0].finish_reason == "error" and "planted fault" in o.error for o in failed)
    assert [o.outputs[0].token_ids for o in llm.generate(PROMPTS, GREEDY)] == wanted


def test_a_measurement_of_failed_requests_is_none(llm, monkeypatch):
    def failing(*args):
        raise DeviceError("a planted fault")

    monkeypatch.setattr(llm._core._executor, "launch", failing)
    with pytest.raises(AnychipError, match=r"the request failed: .*planted fault"):
        list(llm.run_timed(PROMPTS, [GREEDY] * len(PROMPTS)))


def test_a_path_is_a_path(tmp_path, monkeypatch):
    """Only the word is the demo, and only a word is looked for on the hub."""
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "models/llama"):
        with pytest.raises(ModelError, match=name):
            LLM(Path(name), "numpy")


@pytest.mark.parametrize("where", ["launch", "copy", "result"])
def test_so_does_an_error_that_is_not_in_the_contract(llm, monkeypatch, caplog, where):
    """A plugin's code raises what it likes. No server stops for it."""
    prompts = [PROMPTS[1]]
    params = replace(GREEDY, n=2)
    wanted = [c.token_ids for c in llm.generate(prompts, params)[0].outputs]

    class Broken:
        def get(self):
            raise KeyError("a planted bug")

    def broken(*given):
        Broken().get()

    with monkeypatch.context() as patched:
        name = "copy_pages" if where == "copy" else "launch"
        patched.setattr(llm._core._executor, name, (lambda *given: Broken()) if where == "result" else broken)
        failed = llm.generate(prompts, params)[0]
    assert {c.finish_reason for c in failed.outputs} == {"error"}
    assert failed.error == "the device failed: KeyError: 'a planted bug'"
    assert "a planted bug" in caplog.text
    assert [c.token_ids for c in llm.generate(prompts, params)[0].outputs] == wanted


def test_nan_logits_fail_one_request(llm, monkeypatch):
    wanted = [o.outputs[0].token_ids for o in llm.generate(PROMPTS, GREEDY)]
    ops = llm._core._executor._device.ops
    logits = ops.logits

    def poisoned(x, w, softcap=None):
        y = logits(x, w, softcap)
        if len(y) == 4:
            y[1, 5] = np.nan
        return y

    monkeypatch.setattr(ops, "logits", poisoned)
    outputs = llm.generate(PROMPTS, GREEDY)
    assert [o.outputs[0].finish_reason for o in outputs] == ["length", "error", "length", "length"]
    assert "NaN" in outputs[1].error
    assert [o.outputs[0].token_ids for o in outputs if o.error is None] == [wanted[0], *wanted[2:]]


def test_what_a_request_with_nan_wrote_is_not_found_by_the_next(checkpoint, monkeypatch):
    with LLM(checkpoint("gemma3")[0], "numpy", skip_tokenizer=True, dtype="float32", page_size=4) as llm:
        wanted = llm.generate(PROMPTS[3], GREEDY)[0].outputs[0].token_ids
        llm.reset_prefix_cache()
        ops = llm._core._executor._device.ops
        with monkeypatch.context() as patched:
            embedding = ops.embedding
            patched.setattr(ops, "embedding", lambda *given: embedding(*given) * np.float32(np.nan))
            assert "NaN" in llm.generate(PROMPTS[3], GREEDY)[0].error
        again = llm.generate(PROMPTS[3], GREEDY)[0]
        llm._core.scheduler.check_integrity()
    assert (again.error, again.outputs[0].token_ids, again.num_cached_tokens) == (None, wanted, 0)


def test_outputs_say_how_long_their_prompt_waited(checkpoint):
    params = SamplingParams(temperature=0, max_tokens=4, n=2, detokenize=False)
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, max_num_seqs=2) as llm:
        waited = [o.queue_seconds for o in llm.generate(PROMPTS, params)]
    assert all(seconds is not None and seconds > 0 for seconds in waited)


def test_closing_a_stream_frees_its_pages(llm):
    stream = llm.stream(PROMPTS[0], SamplingParams(temperature=0, max_tokens=50, detokenize=False))
    next(stream)
    assert llm._core.kv.usage > 0
    stream.close()
    assert llm._core.kv.usage == 0


def test_streams_are_read_side_by_side(llm):
    params = replace(GREEDY, max_tokens=20)
    wanted = [o.outputs[0].token_ids for o in llm.generate(PROMPTS, params)]
    streams = [llm.stream(prompt, params) for prompt in PROMPTS[:2]]
    got = [[next(s).outputs[0].new_token_ids[0]] for s in streams]
    assert [o.outputs[0].token_ids for o in llm.generate(PROMPTS[2:], params)] == wanted[2:]
    for tokens, stream in zip(got, streams, strict=True):
        for piece in stream:
            tokens += [t for c in piece.outputs for t in c.new_token_ids]
    assert got == wanted[:2]


def test_a_stream_whose_engine_is_closed_says_so(checkpoint):
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True) as llm:
        stream = llm.stream(PROMPTS[0], GREEDY)
        next(stream)
    with pytest.raises(EngineDeadError, match="the engine was closed"):
        next(stream)


def test_tenants_do_not_share_prefixes(checkpoint):
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, page_size=4) as llm:
        first = llm.generate(PROMPTS[3], GREEDY, cache_salt="a")[0]
        again = llm.generate(PROMPTS[3], GREEDY, cache_salt="a")[0]
        other = llm.generate(PROMPTS[3], GREEDY, cache_salt="b")[0]
    assert (first.num_cached_tokens, again.num_cached_tokens, other.num_cached_tokens) == (0, 28, 0)
    assert first.outputs[0].token_ids == other.outputs[0].token_ids


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", None),
        ("dtype", "int3"),
        ("kv_dtype", 3),
        ("kv_pages", "3"),
        ("kv_pages", 1),
        ("max_model_len", 1),
        ("max_num_seqs", 0),
        ("max_num_seqs", True),
        ("memory_fraction", 2.0),
        ("memory_fraction", "0.5"),
        ("policy", "lifo"),
        ("prefix_caching", "no"),
        ("revision", 3),
        ("threads", 1.5),
    ],
)
def test_bad_options_are_named(name, value):
    with pytest.raises(RequestError, match=f"^{name} is {value!r}; expected "):
        EngineOptions(**{name: value})
    with pytest.raises(RequestError, match="unknown option 'maximum'; known: device, "):
        EngineOptions(maximum=1)


def test_when_the_engine_dies_nobody_waits(monkeypatch):
    """Neither those it runs nor those it has not taken on yet."""
    engine = AsyncEngine("demo", "numpy")
    stepping, sent = threading.Event(), threading.Event()

    def die():
        stepping.set()
        sent.wait(60)
        raise RuntimeError("a planted bug")

    monkeypatch.setattr(engine._core, "step", die)

    async def main():
        first = asyncio.create_task(anext(engine.generate("a", GREEDY)))
        await asyncio.to_thread(stepping.wait, 60)
        others = [asyncio.create_task(anext(engine.generate("b", GREEDY))) for _ in range(3)]
        await asyncio.sleep(0)
        sent.set()
        for task in (first, *others):
            with pytest.raises(EngineDeadError, match="RuntimeError: a planted bug; start it again"):
                await task
        with pytest.raises(EngineDeadError, match="a planted bug"):
            await anext(engine.generate("c", GREEDY))
        await engine.close()

    asyncio.run(main())
    assert not engine.alive
    assert engine.stats().kv_usage == 0


def test_stop_strings_end_the_text():
    with LLM("demo", "numpy") as llm:
        params = {"temperature": 0, "max_tokens": 30, "ignore_eos": True}
        (whole,) = llm.generate("Return a list of", SamplingParams(**params))
        text = whole.outputs[0].text
        stop = text[8:11]
        (cut,) = llm.generate("Return a list of", SamplingParams(**params, stop=[stop, "never this"]))
        out = cut.outputs[0]
        assert out.text == text[: text.index(stop)]
        assert (out.finish_reason, out.stop_reason) == ("stop", stop)
        pieces = "".join(
            c.new_text for o in llm.stream("Return a list of", SamplingParams(**params, stop=[stop])) for c in o.outputs
        )
        assert pieces == out.text
        (kept,) = llm.generate(
            "Return a list of", SamplingParams(**params, stop=[stop], include_stop_str_in_output=True)
        )
        assert kept.outputs[0].text == out.text + stop
        assert llm._core.kv.usage == 0


def test_a_stop_string_from_before_min_tokens_stops_nothing():
    """Neither while another stop string, long or not, holds the text back: no token is told before its time."""
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    prompt, stop = "Return a list", "the"
    with LLM("demo", "numpy") as llm:
        text = llm.generate(prompt, params)[0].outputs[0].text
        assert text.count(stop) > 1
        ends = set()
        for least in range(0, 25, 4):
            outs = []
            for beside in ([], ["q" * 9], ["q" * 99]):
                one = replace(params, min_tokens=least, stop=[stop, *beside])
                out = llm.generate(prompt, one)[0].outputs[0]
                outs.append((out.text, len(out.token_ids), out.finish_reason))
                assert out.text in (text, *(text[: m.start()] for m in re.finditer(stop, text)))
            assert outs == [outs[0]] * 3
            assert outs[0][1] >= least
            ends.add(outs[0][1])
        assert len(ends) > 2  # the first one, the second, and none
