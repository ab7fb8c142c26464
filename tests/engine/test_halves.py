"""A checkpoint in 16 bits on a device that keeps it so in float32: what it is counted to take, and what it writes."""

from __future__ import annotations

from dataclasses import replace

import checkpoints
import pytest
import torch
from anychip import LLM, CapacityError, SamplingParams
from anychip.engine.budget import make_budget, weight_specs
from anychip.engine.options import EngineOptions
from anychip.loading.checkpoint import open_checkpoint
from anychip_cpu import native
from anychip_cpu.platform import CpuPlatform
from anychip_sdk.contract import QUANT_FORMATS, Memory
from anychip_sdk.kits.torch.weights import Weight

pytestmark = pytest.mark.skipif(not native.isas(), reason="anychip-cpu was installed without a C++ compiler")
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, detokenize=False)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """family -> the directory of a checkpoint in bfloat16."""

    def make(name):
        directory = tmp_path_factory.mktemp(name)
        checkpoints.build(name, directory, dtype=torch.bfloat16)
        return directory

    return make


def budget_of(directory, **options):
    with open_checkpoint(directory) as checkpoint:
        return make_budget(checkpoint, CpuPlatform().open(threads=1), EngineOptions(device="cpu", **options))


def size(handle):
    parts = vars(handle).values()
    return sum(p.nbytes if isinstance(p, torch.Tensor) else size(p) if isinstance(p, Weight) else 0 for p in parts)


@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2", "gemma3", "qwen3_moe"])
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_what_is_kept_is_what_is_counted(halves, name, quantize):
    """Of a head of its own, a shared one, biases, norms with an offset, and experts."""
    directory = halves(name)
    budget = budget_of(directory, quantize=quantize)
    device = CpuPlatform().open(threads=1)
    with open_checkpoint(directory) as file:
        specs = [spec for spec in weight_specs(budget.tree) if spec.const is None]
        kept = sum(size(device.pack(spec, file.read, file.shapes, "float32")) for spec in specs)
    # panels of 32 outputs are padded: of the 4 scores of a router it is much
    assert budget.weights <= kept <= budget.weights * 1.25


def test_weights_in_float32_are_counted_in_full(checkpoint, halves):
    full, half = budget_of(checkpoint("llama")[0]), budget_of(halves("llama"))
    copy = QUANT_FORMATS["int8"].nbytes(*full.shapes["lm_head.weight"])  # beside either
    assert full.weights - half.weights == pytest.approx((full.weights - copy) / 2, rel=0.02)  # norms stay


def test_no_dtype_is_offered_that_takes_no_less(halves, monkeypatch):
    directory, device = halves("llama"), CpuPlatform().open(threads=1)
    monkeypatch.setattr(device.allocator, "memory", lambda: Memory(1000, 1000))
    monkeypatch.setattr(device, "capabilities", replace(device.capabilities, screens_heads={}))
    options = EngineOptions(device="cpu", max_num_seqs=1, max_num_batched_tokens=1)
    with open_checkpoint(directory) as file, pytest.raises(CapacityError, match=r"a smaller model, or quantize int8$"):
        make_budget(file, device, options)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "mixtral"])
def test_it_writes_what_the_same_numbers_in_float32_write(halves, name):
    """Those of the numpy device, which widens them as it loads."""
    directory, written = halves(name), []
    for device in ("cpu", "numpy"):
        with LLM(directory, device, dtype="float32", skip_tokenizer=True, warm_up=False) as llm:
            outputs = llm.generate(checkpoints.prompts(4), [GREEDY] * 4)
            written.append([output.outputs[0].token_ids for output in outputs])
    assert written[0] == written[1]
