"""A device that does not declare sampling gives logits, and the host samples: the same tokens, logprobs and faults."""

from __future__ import annotations

from dataclasses import replace

import checkpoints
import pytest
from anychip import LLM, SamplingParams
from anychip.platforms.op_table import op_table, refuse_reference
from anychip_sdk.contract import DeviceInfo, NotSupported, Sampled
from anychip_sdk.kits.numpy import NumpyDevice, NumpyOps
from whole_steps import WholeSteps

PROMPTS = checkpoints.prompts(6, (1, 15, 16, 17))


class LogitsOps(NumpyOps):
    def sample(self, logits, batch, state):
        raise NotSupported("the host samples")


class LogitsDevice(NumpyDevice):
    def __init__(self) -> None:
        super().__init__(DeviceInfo(name="logits", description="", details={}))
        self.capabilities = replace(self.capabilities, sampling=False, device_feedback=False)
        self.ops = LogitsOps()


class LogitsSteps(WholeSteps):
    """Samples nothing of its own: what it would have sampled from is what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, sampling=False)
        self._device = LogitsDevice()
        self._device.ops.sample = lambda logits, batch, state: (
            Sampled(batch.logit_rows, top_logprobs=logits),
            state,
        )


@pytest.mark.parametrize("kind", [LogitsDevice, LogitsSteps])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0, max_tokens=8, detokenize=False),
        SamplingParams(temperature=0.9, top_p=0.8, top_k=20, seed=3, n=2, max_tokens=8, detokenize=False),
        SamplingParams(temperature=0.7, seed=1, presence_penalty=1.0, repetition_penalty=1.3, logit_bias={5: 4.0},
                       min_tokens=3, logprobs=2, prompt_logprobs=1, max_tokens=8, detokenize=False),
    ],
    ids=["greedy", "filters", "all"],
)  # fmt: skip
def test_the_host_samples_what_the_device_would(install, monkeypatch, checkpoint, kind, params):
    install("logits", open="import whole_steps; return whole_steps.CURRENT")
    monkeypatch.setattr("whole_steps.CURRENT", kind(), raising=False)
    directory, _ = checkpoint("llama")
    found = []
    for device in ("numpy", "logits"):
        with LLM(directory, device, skip_tokenizer=True, max_num_seqs=2, dtype="float32") as llm:
            found.append(llm.generate(PROMPTS, params))
    for wanted, got in zip(*found, strict=True):
        assert [o.token_ids for o in got.outputs] == [o.token_ids for o in wanted.outputs]
        for ours, theirs in zip(got.outputs, wanted.outputs, strict=True):
            values = [t.chosen.logprob for t in theirs.logprobs or ()]
            assert [t.chosen.logprob for t in ours.logprobs or ()] == pytest.approx(values, abs=1e-4)


def test_the_table_and_strict_say_so():
    table = op_table(LogitsDevice())
    (entry,) = [entry for entry in table if entry.op == "sample"]
    assert entry.reason == "reference code on the host: the device declares no sampling"
    assert "sample" in [e.op for e in table if e.reference]
    with pytest.raises(Exception, match=r"--strict: logits runs .*sample.* on reference code"):
        refuse_reference(table, "logits")
