"""Steps are compiled before the first request, and no request finds one missing."""

from __future__ import annotations

from dataclasses import replace

import checkpoints
import pytest
from anychip import LLM, SamplingParams
from anychip.errors import CapacityError
from anychip.runner.warm_up import KINDS, Limits, expected_keys
from anychip_sdk.contract import Bucket, OutOfMemory, SampleKind
from anychip_sdk.kits.numpy import NumpyDevice
from hypothesis import given, settings
from hypothesis import strategies as st

GREEDY = SamplingParams(temperature=0, max_tokens=9, detokenize=False)
MIXED = [
    GREEDY,
    replace(GREEDY, temperature=1.3, seed=4, n=3, max_tokens=14),
    replace(GREEDY, temperature=0.8, seed=1, repetition_penalty=1.4, frequency_penalty=0.5, logit_bias={3: 1.0}),
    replace(GREEDY, logprobs=2, max_tokens=7),
]
PROMPTS = checkpoints.prompts(4, (5, 9, 17, 30))
LENGTHS = (1, 4, 16, 48, 128, 512)


def padded(length):
    return next(n for n in LENGTHS if n >= length)


def bucket(exact):
    seqs = padded(exact.seqs)
    tokens = seqs if exact.decode else padded(exact.tokens)
    return Bucket(tokens, seqs, padded(exact.pages), max(seqs, padded(exact.rows)), exact.decode, exact.groups)


def sample_kind(exact):
    return exact if exact in KINDS[:2] else SampleKind(True, 1024, 64, 20)


class Padding:
    """As much of an executor as names its shapes."""

    asynchronous = True
    bucket = staticmethod(bucket)
    sample_kind = staticmethod(sample_kind)


@pytest.fixture
def told(monkeypatch):
    """Makes the numpy device pad. What it is told will come, and then each key that it compiles."""
    log = []
    compile = NumpyDevice.compile
    monkeypatch.setattr(NumpyDevice, "bucket", lambda self, exact: bucket(exact))
    monkeypatch.setattr(NumpyDevice, "sample_kind", lambda self, exact: sample_kind(exact))
    monkeypatch.setattr(NumpyDevice, "warm", lambda self, keys: log.append(list(keys)))
    monkeypatch.setattr(NumpyDevice, "compile", lambda self, step, key: log.append(key) or compile(self, step, key))
    return log


def engine(checkpoint, **options):
    options = {"max_num_seqs": 5, "max_num_batched_tokens": 24, "page_size": 4, **options}
    return LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True, dtype="float32", **options)


@pytest.mark.parametrize("options", [{}, {"kv_pages": 26, "max_prefill_chunk": 7}], ids=["roomy", "few pages"])
def test_a_mixed_workload_finds_every_step(checkpoint, told, options):
    with engine(checkpoint, **options) as llm:
        keys, *compiled = told
        assert compiled == keys
        told.clear()
        outputs = llm.generate(PROMPTS, MIXED)
        assert not any(o.error for o in outputs)
        assert told == []


def test_prompt_logprobs_are_compiled_when_they_come(checkpoint, told):
    with engine(checkpoint) as llm:
        told.clear()
        llm.generate(PROMPTS, replace(GREEDY, prompt_logprobs=1))
        assert told
        assert all(key.bucket.rows > key.bucket.seqs for key in told)


def test_not_wanted(checkpoint, told):
    with engine(checkpoint, warm_up=False) as llm:
        assert told == []
        llm.generate(PROMPTS, GREEDY)
        assert told


def test_a_device_of_exact_shapes_is_told_nothing(checkpoint, monkeypatch):
    monkeypatch.setattr(NumpyDevice, "warm", lambda self, keys: pytest.fail(f"told {keys}"))
    with engine(checkpoint) as llm:
        assert not llm.generate(PROMPTS, GREEDY)[0].error


def test_progress_is_shown(checkpoint, told, capsys):
    with engine(checkpoint, progress=True):
        pass
    count = len(told[0])
    assert f"preparing steps: {count}/{count}" in capsys.readouterr().err


def test_a_step_that_does_not_fit(checkpoint, told, monkeypatch):
    def compile(self, step, key):
        raise OutOfMemory("20 GiB are wanted")

    monkeypatch.setattr(NumpyDevice, "compile", compile)
    with pytest.raises(CapacityError, match=r"^numpy ran out of memory loading .*: 20 GiB are wanted$"):
        engine(checkpoint)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_step_within_the_limits_is_expected(data):
    limits = Limits(*(data.draw(st.integers(1, most), name) for name, most in (("tokens", 200), ("seqs", 60))), 40, 2)
    limits = replace(limits, seqs=min(limits.seqs, limits.tokens))
    keys = expected_keys(Padding(), limits)
    assert len(set(keys)) == len(keys)
    assert all(key.feed for key in keys)
    assert [k.bucket.tokens for k in keys] == sorted((k.bucket.tokens for k in keys), reverse=True)
    tokens = data.draw(st.integers(1, limits.tokens))
    seqs = data.draw(st.integers(1, min(tokens, limits.seqs)))
    decode = tokens == seqs and data.draw(st.booleans())
    pages, rows = data.draw(st.integers(1, limits.pages)), data.draw(st.integers(0, seqs))
    wanted = bucket(Bucket(tokens, seqs, pages, rows, decode, 2))
    assert {(key.bucket, key.sample) for key in keys} >= {(wanted, sample_kind(kind)) for kind in KINDS}
