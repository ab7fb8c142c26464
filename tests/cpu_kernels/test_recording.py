"""Recorded steps: one recording serves the batches of its shapes, and what it gives is what eager steps give."""

from __future__ import annotations

import checkpoints
import pytest
import torch
from anychip import LLM, SamplingParams
from anychip_cpu import native
from anychip_cpu.buckets import recorded_bucket
from anychip_cpu.launch import Launcher
from anychip_cpu.memory import Pool
from anychip_cpu.recording import KEPT, Recordings
from anychip_sdk.contract import Bucket, DeviceError

pytestmark = pytest.mark.skipif(not native.isas(), reason="anychip-cpu was installed without a C++ compiler")

PROMPTS = checkpoints.prompts(9, (1, 7, 16, 17, 50))
GREEDY = SamplingParams(temperature=0, max_tokens=9, detokenize=False)
PARAMS = {
    "greedy": GREEDY,
    "drawn": SamplingParams(temperature=0.9, top_p=0.8, seed=5, max_tokens=9, detokenize=False),
    "penalties": SamplingParams(temperature=0, repetition_penalty=1.3, presence_penalty=0.4, max_tokens=9),
    "edits": SamplingParams(temperature=0, logit_bias={3: 4.0, 5: -8.0}, max_tokens=9),
    "logprobs": SamplingParams(temperature=0, logprobs=3, prompt_logprobs=2, max_tokens=9),
}


@pytest.fixture
def open_llm(checkpoint):
    def make(family="llama", **options):
        return LLM(checkpoint(family)[0], "cpu", skip_tokenizer=True, **{"dtype": "float32", **options})

    return make


@pytest.fixture
def eager(monkeypatch):
    """Devices that are opened after this call record nothing."""
    return lambda: monkeypatch.setattr("anychip_cpu.device.recorded_bucket", lambda exact: None)


@pytest.fixture(scope="module")
def transformers(checkpoint):
    return [checkpoints.greedy(checkpoint("llama")[1], p, GREEDY.max_tokens) for p in PROMPTS]


def recordings(llm) -> Recordings:
    return llm._core._executor._device._recordings


def outputs(llm, params=GREEDY, prompts=PROMPTS):
    return [(o.error, o.prompt_logprobs, o.outputs[0].token_ids, o.outputs[0].logprobs)
            for o in llm.generate(prompts, params)]  # fmt: skip


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize(
    ("family", "kv"), [("llama", "auto"), ("gemma3", "auto"), ("mixtral", "auto"), ("llama", "fp8")]
)
def test_a_replay_gives_what_an_eager_step_gives(open_llm, eager, family, kv, params):
    """KV in fp8 has no kernel: stretches of the torch kit run between those of kernels."""
    with open_llm(family, kv_dtype=kv) as llm:
        first = outputs(llm, PARAMS[params])
        again = outputs(llm, PARAMS[params])
        assert recordings(llm)._kept
    eager()
    with open_llm(family, kv_dtype=kv) as llm:
        wanted = outputs(llm, PARAMS[params])
        assert not recordings(llm)._kept
    assert [o[2] for o in first] == [o[2] for o in again] == [o[2] for o in wanted]
    if params == "logprobs":
        assert [t.top[0].token_id for t in first[4][3]] == [t.top[0].token_id for t in wanted[4][3]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes(open_llm, eager, dtype):
    with open_llm(dtype=dtype) as llm:
        got = outputs(llm)
    eager()
    with open_llm(dtype=dtype) as llm:
        assert outputs(llm) == got


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_quantised_weights(open_llm, eager, format):
    with open_llm(quantize=format) as llm:
        got = outputs(llm)
    eager()
    with open_llm(quantize=format) as llm:
        assert outputs(llm) == got


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_a_screened_head(open_llm, monkeypatch, count):
    """Steps of several requests are recorded for more rows than are screened."""
    with open_llm(quantize="int8") as llm:
        wanted = outputs(llm, prompts=PROMPTS[:count])
    monkeypatch.setattr("anychip_cpu.screened.WIDE", 1)  # on every instruction set
    with open_llm(quantize="int8") as llm:
        assert outputs(llm, prompts=PROMPTS[:count]) == wanted
        step = recordings(llm).last(lambda key: key.bucket.decode)
        kernels = [kernel for stretch in step.stretches() for kernel, _ in stretch.kernels()]
        assert llm._core._executor._device.ops._kernels.largest_int in kernels


def test_one_recording_serves_every_batch_of_its_shapes(open_llm):
    """Decodes of any lengths, prompts of any mix, and sequences that come and go."""
    with open_llm(prefix_caching=False, max_num_seqs=4) as llm:
        alone = [outputs(llm, prompts=[p])[0] for p in PROMPTS]
        outputs(llm)
        known = set(recordings(llm)._kept)
        assert outputs(llm, prompts=PROMPTS[::-1])[::-1] == alone
        assert outputs(llm) == alone
        new = set(recordings(llm)._kept) - known
    decodes = {key.bucket.seqs for _, key in known if key.bucket.decode}
    assert decodes == {1, 64}
    assert not [key for _, key in new if key.bucket.decode]


@pytest.mark.parametrize("isa", native.isas())
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_instruction_sets(open_llm, transformers, monkeypatch, isa, threads):
    monkeypatch.setenv(native.FORCED, isa)
    with open_llm() as llm:
        torch.set_num_threads(threads)  # more than there are cores, too
        got = [[o[2] for o in outputs(llm)] for _ in range(2)]
        torch.set_num_threads(1)
    assert got == [transformers] * 2


def test_a_step_that_fails_while_it_is_recorded_is_not_kept(open_llm, monkeypatch):
    with open_llm() as llm:
        wanted = outputs(llm, prompts=PROMPTS[:2])
    with open_llm() as llm:
        ops = llm._core._executor._device.ops
        norm, calls = ops.add_rms_norm, []

        def failing(*args):
            calls.append(1)
            if len(calls) == 3:
                raise DeviceError("a planted fault")
            return norm(*args)

        monkeypatch.setattr(ops, "add_rms_norm", failing)
        failed = llm.generate(PROMPTS[:2], GREEDY)
        assert all("planted fault" in o.error for o in failed)
        assert not recordings(llm)._kept
        assert ops._launch.recorder is None
        assert outputs(llm, prompts=PROMPTS[:2]) == wanted


def test_a_replay_that_fails_leaves_the_next_one_right(open_llm, monkeypatch):
    """A part that torch computes raises in the middle of a replay."""
    with open_llm(kv_dtype="fp8") as llm:
        wanted = outputs(llm)
        planted = []

        def failing(*args, **kwargs):
            if not planted:
                planted.append(1)
                raise RuntimeError("a planted fault")
            return softmax(*args, **kwargs)

        softmax = torch.Tensor.softmax
        monkeypatch.setattr(torch.Tensor, "softmax", failing)
        failed = llm.generate(PROMPTS, GREEDY)
        assert any(o.error and "planted fault" in o.error for o in failed)
        assert outputs(llm) == wanted


def test_another_cache_is_recorded_anew(open_llm):
    with open_llm() as llm:
        wanted = outputs(llm)
        executor = llm._core._executor
        known = dict(recordings(llm)._kept)
        executor._kv = [tuple([t.clone() for t in layers] for layers in group) for group in executor._kv]
        llm.reset_prefix_cache()
        assert outputs(llm) == wanted
        kept = recordings(llm)._kept
        assert any(kept[key] is not recording for key, recording in known.items())


def test_no_more_recordings_than_a_device_keeps(open_llm, monkeypatch):
    monkeypatch.setattr("anychip_cpu.recording.KEPT", 2)
    with open_llm() as llm:
        wanted = outputs(llm)
        assert outputs(llm) == wanted
        assert len(recordings(llm)._kept) == 2 < KEPT


def test_a_step_that_uses_a_tensor_from_elsewhere_runs_op_by_op(open_llm, monkeypatch):
    """A replay could not renew it."""
    with open_llm() as llm:
        wanted = outputs(llm)
    with open_llm() as llm:
        ops = llm._core._executor._device.ops
        monkeypatch.setattr(ops, "zeros_like", lambda x: torch.zeros(x.shape))
        assert outputs(llm) == wanted
        assert not recordings(llm)._kept


def test_nothing_is_recorded_before_the_first_request(open_llm):
    """A step is recorded while it runs, so a warm-up would only delay the start."""
    with open_llm() as llm:
        assert not recordings(llm)._kept


def test_shapes():
    exact = Bucket(tokens=9, seqs=9, pages=70, rows=9, decode=True)
    assert recorded_bucket(exact) == Bucket(tokens=16, seqs=16, pages=256, rows=16, decode=True)
    assert recorded_bucket(Bucket(1, 1, 5, 1, True)) == Bucket(1, 1, 64, 1, True)
    assert recorded_bucket(Bucket(2, 2, 5, 2, True)) == Bucket(64, 64, 64, 64, True)
    assert recorded_bucket(Bucket(3, 3, 9000, 3, True)) == Bucket(4, 4, 4**7, 4, True)
    assert recorded_bucket(Bucket(9, 1, 5, 1, False)) == Bucket(1024, 64, 64, 64, False)
    assert recorded_bucket(Bucket(3000, 3, 5, 1, False, 2)) == Bucket(4096, 64, 64, 64, False, 2)
    assert recorded_bucket(Bucket(300, 3, 5, 200, False)) == Bucket(1024, 64, 64, 256, False)
    assert recorded_bucket(Bucket(1 << 15, 1, 1, 1, False)) is None
    assert recorded_bucket(Bucket(500, 500, 3000, 500, True)) is None
    for tokens in (1, 4, 5, 64, 65):
        bucket = recorded_bucket(Bucket(tokens, tokens, tokens, tokens, True))
        assert recorded_bucket(bucket) == bucket


def test_memory_is_given_out_again_when_nothing_uses_it():
    pool = Pool()
    x = pool.empty((5000, 3), torch.float32)
    part, address = x[:7, 1:], x.data_ptr()
    del x
    assert pool.empty((5000,), torch.float32).data_ptr() != address  # a view still uses it
    again = pool.again(part)
    again.fill_(4.0)
    assert (part == 4).all()
    del part
    assert pool.empty((60,), torch.bfloat16).data_ptr() != address  # a smaller block is free
    assert pool.empty((5000, 2), torch.float32).data_ptr() == address
    assert pool.again(torch.zeros(3)) is None
    assert pool.empty((0, 4), torch.float32).shape == (0, 4)


def test_without_a_recorder_calls_run_at_once():
    launch = Launcher()
    assert launch.live(torch.zeros(3)) is None
    assert launch.kit(torch.add, torch.ones(2), 1).tolist() == [2, 2]
    assert launch.rows(torch.zeros(4, 3).T).is_contiguous()
