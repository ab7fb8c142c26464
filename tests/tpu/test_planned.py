"""Steps compiled by libtpu for TPUs that are not here, and what the check says of a step that is wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anychip_sdk.contract import SCALED_KV, Bucket, NotSupported, Sampled, StepKey, WeightSpec
from anychip_sdk.kits.jax import JaxAttention
from anychip_sdk.kits.jax.allocator import COPIES, _copy
from anychip_sdk.kits.jax.moe import RAGGED

pytest.importorskip("libtpu")
from anychip_tpu.planned import PlannedDevice, Program

pytestmark = pytest.mark.slow  # compiled or interpreted kernels

SCRIPT = Path(__file__).parents[2] / "tools/tpu_check.py"
DECODE = Bucket(tokens=8, seqs=8, pages=16, rows=8, decode=True)
PREFILL = Bucket(tokens=64, seqs=8, pages=16, rows=8, decode=False)


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("tpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tpu_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny(check):
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8}
    return check.MODELS["Llama-3-8B"] | sizes | {"num_key_value_heads": 4, "head_dim": 64, "vocab_size": 1024}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("bucket", [DECODE, PREFILL], ids=["decode", "prefill"])
def test_steps_hold_the_kernels_and_what_the_sharding_implies(check, tiny, count, bucket):
    model = check.load(tiny, "v5e", count)
    assert model.device.info.name == f"tpu:v5e-{count}"
    program = model.compile(bucket)
    assert not list(check.faults(model, bucket, program))
    assert set(program.kernels().values()) == {1}  # the loop over layers holds each once
    assert check.estimate(model, bucket) > 0


@pytest.mark.parametrize("kept", SCALED_KV)
@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_kv_in_8_bits_stays_where_it_is(check, tiny, chip, kept):
    """No chip refuses either format, and neither numbers nor scales are copied. Two of four KV heads on a chip."""
    model = check.load(tiny, chip, 2, kept)
    for bucket in (DECODE, PREFILL):
        assert not list(check.faults(model, bucket, model.compile(bucket)))


@pytest.mark.parametrize("bucket", [DECODE, PREFILL], ids=["decode", "prefill"])
@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_sinks_are_taken_by_the_kernel(check, tiny, chip, bucket):
    """Attention alone: no model has them yet."""
    model = check.load(tiny, chip, 2)
    device, layer, heads = model.device, model.spec.layers[0], (model.spec.num_heads, model.spec.head_dim)
    sinks = device.pack(WeightSpec((("sinks",),), "vector"), check._unread, {"sinks": heads[:1]}, "bfloat16")

    def step(weights, kv, state, batch):
        batch = device.ops.attention.begin(batch)
        q = jnp.broadcast_to(batch.positions[:, None, None], (bucket.tokens, *heads)).astype(jnp.bfloat16)
        out = device.ops.attention.attend_with_sinks(q, kv, batch, layer, weights)
        return Sampled(out.sum(axis=1).astype(jnp.int32)), kv, state

    program = device._program(step, StepKey(bucket), sinks, model.kv, model.state)
    assert program.kernels() == {"ragged_paged_attention": 1}
    assert not program.copies(model.kv)


def test_a_step_without_the_kernels_is_found(check, tiny):
    """XLA's own scatter turns the cache into another layout and back."""
    model = check.load(tiny | {"head_dim": 128}, "v5e", 1)
    model.device.ops.attention = JaxAttention()
    found = list(check.faults(model, DECODE, model.compile(DECODE)))
    assert "the kernel ragged_paged_attention is not in it" in found
    assert any(line.startswith("it copies the KV cache: ") for line in found)


def test_experts_are_read_where_they_lie(check, tiny):
    """By a kernel: XLA's own ragged product has its weights copied out of the stack of layers, and turned."""
    config = check.MODELS["Mixtral-8x7B"] | tiny | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4}
    prefill = replace(PREFILL, tokens=512)
    model = check.load(config, "v6e", 2)
    assert not list(check.faults(model, prefill, model.compile(prefill)))
    model.device.ops._grouped = RAGGED
    found = list(check.faults(model, prefill, model.compile(prefill)))
    assert found == ["the kernel grouped_product is not in it"]


@pytest.mark.parametrize("kept", ["bfloat16", *SCALED_KV])
def test_pages_are_copied_where_they_lie(check, tiny, kept, monkeypatch):
    monkeypatch.setattr(check, "REQUESTS", 512)  # small ones would be brought to VMEM
    model = check.load(tiny | {"num_hidden_layers": 12}, "v5e", 4, kept)
    pairs = jax.ShapeDtypeStruct((2, COPIES), np.int32, sharding=model.device._ranks.whole)
    program = Program(_copy.lower(model.kv[0], pairs).compile())
    assert not program.copies(model.kv)
    assert not program.collectives()


def test_a_model_is_one_that_is_known_or_a_folder(check, tiny, tmp_path):
    asked = [(chip, count, kept) for _, _, chip, count, kept in check.asked("Qwen3-0.6B")]
    assert asked[0] == ("v5e", 1, "bfloat16")
    assert ("v5e", 1, "int8") in asked
    (tmp_path / "config.json").write_text(json.dumps(tiny))
    assert list(check.asked(f"{tmp_path}@v6e-1")) == [(tmp_path.name, tiny, "v6e", 1, "bfloat16")]


def test_chips_that_do_not_divide_the_heads(check, tiny):
    with pytest.raises(NotSupported, match="8 chips do not divide 4 KV heads; use 1 or 2 or 4"):
        check.load(tiny, "v6e", 8)


@pytest.mark.parametrize(("chip", "count"), [("v9", 1), ("v5e", 3)])
def test_chips_that_nobody_makes(chip, count):
    with pytest.raises(NotSupported, match=f"no plan for '{chip}-{count}'; expected one of v4, v5e"):
        PlannedDevice(chip, count)
