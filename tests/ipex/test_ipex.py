"""IPEX's ops through the engine: its tokens are Transformers', and where it has no op the torch kit's are."""

from __future__ import annotations

import checkpoints
import pytest
import torch
from anychip import LLM, CapacityError, SamplingParams
from anychip.cli import main
from anychip.platforms.op_table import op_table
from anychip_cpu.ipex_ops import IpexWeight
from anychip_cpu.onednn import can_pack
from anychip_sdk.contract import AttentionSpec, KVSpec, Paged, WeightSpec

LENGTHS = (1, 7, 8, 9, 16, 17, 25, 50)
GREEDY = SamplingParams(temperature=0, max_tokens=12, detokenize=False)
SETTINGS = {
    "whole": {},
    "chunks of 7": {"max_prefill_chunk": 7},
    "few pages": {"kv_pages": 14, "page_size": 8, "max_num_batched_tokens": 32, "max_num_seqs": 6},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_greedy_tokens_are_transformers(family, setting, checkpoint):
    directory, model = checkpoint(family)
    prompts = checkpoints.prompts(len(LENGTHS), LENGTHS)
    wanted = [checkpoints.greedy(model, p, 12) for p in prompts]
    options = {"skip_tokenizer": True, "dtype": "float32", "provider": "ipex", "threads": 1, **SETTINGS[setting]}
    with LLM(directory, "cpu", **options) as llm:
        assert [o.outputs[0].token_ids for o in llm.generate(prompts, GREEDY)] == wanted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_products(device, dtype):
    kind = getattr(torch, dtype)
    w = torch.randint(-3, 4, (37, 24)).float()
    b = torch.randint(-3, 4, (37,)).float()
    arrays = {"w": w.numpy(), "b": b.numpy()}
    spec = WeightSpec((("w",),), "linear", bias=("b",))
    handle = device.pack(spec, lambda n, i=(): arrays[n][i], {n: a.shape for n, a in arrays.items()}, dtype)
    assert isinstance(handle, IpexWeight) == can_pack(kind)
    for rows in (1, 3, 40):
        x = torch.randint(-3, 4, (rows, 24)).to(kind)
        assert device.ops.linear(x, handle).double().equal((x.double() @ w.double().T + b).double())


def test_the_residual_it_is_given_stays_as_it_was(device):
    x, residual = torch.randn(5, 24), torch.randn(5, 24)
    before = residual.clone()
    w = device.pack(WeightSpec((("n",),), "norm"), lambda n, i=(): torch.ones(24).numpy(), {"n": (24,)}, "float32")
    _, total = device.ops.add_rms_norm(x, residual, w, 1e-6)
    assert residual.equal(before)
    torch.testing.assert_close(total, x + before)


def test_what_attention_it_leaves_to_the_kit_is_said(device):
    def said(kept="float32", v_dim=16, **fields):
        kv = KVSpec((Paged(layers=1, kv_heads=2, k_dim=16, v_dim=v_dim),), kept)
        spec = AttentionSpec(head_dim=16, scale=0.25, **fields)
        return device.ops.attention.fallback(spec, 4, kv, "float32")

    assert said() is None
    assert "asked for in int8" in said("int8")
    assert "16 and 8 numbers" in said(v_dim=8)
    assert "softcap" in said(softcap=3.0)
    assert "window of 1" in said(window=1)


def test_the_op_table_names_it(device, capsys):
    served = {entry.op for entry in op_table(device) if entry.provider.startswith("intel_extension_for_pytorch 2.8")}
    assert served == set(device.ops.provided)
    assert main(["devices", "cpu", "-v", "--provider", "ipex"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["rms_norm"] and "torch_ipex" not in line and "2.8" in line for line in lines)


def test_it_has_no_quantised_weights():
    with pytest.raises(CapacityError, match="leave quantize out"):
        LLM("demo", "cpu", provider="ipex", quantize="int8")
