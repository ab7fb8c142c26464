"""`quantize`: which weights it is for, what it costs, who refuses it, and a model that runs with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from anychip import LLM, SamplingParams
from anychip.cli import main
from anychip.engine.budget import make_budget, weight_specs
from anychip.engine.options import EngineOptions
from anychip.errors import CapacityError, RequestError
from anychip.loading.checkpoint import open_checkpoint
from anychip.models.quantize import quantized
from anychip.models.registry import family
from anychip.platforms.selection import choose, open_device
from anychip_cpu import native
from anychip_cpu.platform import CpuPlatform
from anychip_sdk.contract import QUANT_FORMATS, NotSupported, WeightSpec
from anychip_sdk.kits.numpy.platform import NumpyPlatform
from anychip_sdk.kits.torch.weights import Weight, pack

GREEDY = SamplingParams(temperature=0, max_tokens=24)
PROMPT = "Return a list of"
needs_kernels = pytest.mark.skipif(not native.isas(), reason="anychip-cpu was installed without a C++ compiler")


def tree_of(directory, name):
    with open_checkpoint(directory) as checkpoint:
        kind = family(checkpoint.config)
        return quantized(kind.weights(kind.from_config(checkpoint.config)), name)


def budget_of(model, **options):
    options = EngineOptions(device="cpu", **options)
    with open_checkpoint(model) as checkpoint:
        device = open_device(choose("cpu"), 1)
        try:
            return make_budget(checkpoint, device, options)
        finally:
            device.close()


@pytest.mark.parametrize("name", ["llama", "llama3", "qwen3", "gemma3", "qwen3_moe"])
def test_linear_layers_and_the_head_are_meant(checkpoint, name):
    tree = tree_of(checkpoint(name)[0], "int4-g32")
    for layer in tree["layers"]:
        for key, spec in layer.items():
            meant = spec.kind in ("linear", "experts") and key != "router"
            assert spec.quantize == ("int4-g32" if meant else None), key
    assert tree["norm"].quantize is None
    assert tree.get("head", tree["embed"]).quantize == "int8"
    assert "head" not in tree or tree["embed"].quantize is None


@pytest.mark.parametrize(("name", "head"), [("int8", "int8"), ("int8-g64", "int8-g64"), ("int4", "int8")])
def test_the_head_has_eight_bits(checkpoint, name, head):
    assert tree_of(checkpoint("llama")[0], name)["head"].quantize == head


def size(handle):
    """Bytes of a weight handle's tensors."""
    parts = vars(handle).values()
    return sum(p.nbytes if isinstance(p, torch.Tensor) else size(p) if isinstance(p, Weight) else 0 for p in parts)


@needs_kernels
@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2"])  # a head of its own, a shared one and biases, biases
@pytest.mark.parametrize("format", ["int8", "int4-g32"])
def test_the_plan_counts_what_is_kept(checkpoint, name, format):
    directory = checkpoint(name)[0]
    budget, plain = budget_of(directory, quantize=format), budget_of(directory)
    device = CpuPlatform().open(threads=1)
    with open_checkpoint(directory) as file:
        shapes = {n: info.shape for n, info in file.tensors.items()}
        specs = [spec for spec in weight_specs(budget.tree) if spec.const is None]
        kept = sum(size(device.pack(spec, file.read, shapes, "float32")) for spec in specs)
    assert budget.weights < plain.weights
    assert budget.weights <= kept <= budget.weights * 1.02  # panels are padded


@needs_kernels
def test_the_demo_writes_in_int8_what_it_writes_in_float32():
    texts = {}
    for format in (None, "int8", "int8-g64"):
        with LLM("demo", "cpu", quantize=format, threads=1) as llm:
            texts[format] = llm.generate([PROMPT], GREEDY)[0].outputs[0].text
    assert texts["int8"] == texts["int8-g64"] == texts[None]


@needs_kernels
@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_and_company_change_nothing(format, dtype):
    prompts = [PROMPT, "class Queue:\n", "Open the file and " * 20]
    with LLM("demo", "cpu", quantize=format, dtype=dtype, threads=1) as llm:
        alone = [llm.generate([p], GREEDY)[0].outputs[0].token_ids for p in prompts]
    with LLM("demo", "cpu", quantize=format, dtype=dtype, threads=1, max_num_batched_tokens=17) as llm:
        together = [o.outputs[0].token_ids for o in llm.generate(prompts, GREEDY)]
    same = sum(a == b for one, other in zip(alone, together, strict=True) for a, b in zip(one, other, strict=True))
    assert same >= 0.75 * sum(map(len, alone))  # a near-tie may fall the other way, and the rest of its text with it


def test_unknown_formats_are_refused():
    with pytest.raises(RequestError, match=r"quantize is 'int7'; expected one of int8, int8-g32, .*int4-g128"):
        LLM("demo", "cpu", quantize="int7")


def test_a_device_without_it_refuses_by_name():
    with pytest.raises(CapacityError, match=r"numpy cannot keep weights in int8; it has none: leave quantize out"):
        LLM("demo", "numpy", quantize="int8")


def test_a_cpu_without_kernels_refuses_too(monkeypatch):
    monkeypatch.setattr("anychip_cpu.device.kernels", lambda: None)
    with pytest.raises(CapacityError, match=r"cpu cannot keep weights in int4; it has none"):
        LLM("demo", "cpu", quantize="int4")
    device = CpuPlatform().open(threads=1)
    with pytest.raises(NotSupported, match=r"cpu has no weights in int8; it has none: .*without its kernels"):
        device.pack(WeightSpec((("w",),), "linear", quantize="int8"), None, {"w": (4, 4)}, "float32")


@needs_kernels
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_experts_are_quantised_too(checkpoint, name):
    """The first layer's experts, against those in float32: routers are not quantised, so the choice is the same."""
    tree, device = tree_of(checkpoint(name)[0], "int8"), CpuPlatform().open(threads=1)
    names = ("router", "gate_up", "down")
    with open_checkpoint(checkpoint(name)[0]) as file:
        shapes = {n: info.shape for n, info in file.tensors.items()}
        spec = family(file.config).from_config(file.config).moe
        specs = [tree["layers"][0][n] for n in names]
        plain = [device.pack(replace(s, quantize=None), file.read, shapes, "float32") for s in specs]
        packed = [device.pack(s, file.read, shapes, "float32") for s in specs]
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    wanted, got = (device.ops.moe(x, *weights, spec, None) for weights in (plain, packed))
    assert 0 < (got - wanted).norm() <= 0.02 * wanted.norm()
    assert size(packed[1]) < 0.4 * size(plain[1])  # panels are padded


@needs_kernels
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_a_mixture_of_experts_runs(checkpoint, format, dtype):
    params = SamplingParams(temperature=0, max_tokens=4, detokenize=False)
    directory = checkpoint("qwen3_moe")[0]
    with LLM(directory, "cpu", skip_tokenizer=True, dtype=dtype, quantize=format, threads=1) as llm:
        assert len(llm.generate([[1, 2, 3]], params)[0].outputs[0].token_ids) == 4


@needs_kernels
def test_norms_are_not_quantised():
    device = CpuPlatform().open(threads=1)
    with pytest.raises(NotSupported, match="cpu quantises linear weights, experts and heads, and no norm"):
        device.pack(WeightSpec((("w",),), "norm", quantize="int8"), None, {"w": (4,)}, "float32")


def test_the_kits_refuse_every_format():
    numpy = NumpyPlatform().open()
    for name in QUANT_FORMATS:
        spec = WeightSpec((("w",),), "linear", quantize=name)
        with pytest.raises(NotSupported, match=f"no weights in {name}; leave quantize out"):
            numpy.pack(spec, None, {"w": (4, 4)}, "float32")
        with pytest.raises(NotSupported, match=f"no weights in {name}; leave quantize out"):
            pack(spec, None, {"w": (4, 4)}, "float32", torch.device("cpu"), 0, 1)


@needs_kernels
def test_the_commands_know_it(capsys):
    assert main(["plan", "--model", "demo", "--device", "cpu", "--quantize", "int8"]) == 0
    assert "in float32, linear layers in int8\n" in capsys.readouterr().out
    assert main(["devices", "-v"]) == 0
    assert f"    --quantize {', '.join(QUANT_FORMATS)}\n" in capsys.readouterr().out
    assert main(["plan", "--model", "demo", "--device", "cpu", "--quantize", "int3"]) == 1
    assert capsys.readouterr().err.startswith("anychip: quantize is 'int3'; expected one of int8, ")
    asked = ["generate", "--model", "demo", "--device", "cpu", "--quantize", "int8", "--temperature", "0"]
    assert main([*asked, "--max-tokens", "8", PROMPT]) == 0
    assert capsys.readouterr().out.startswith("Return a list of all the values")


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 128), (33, 100)])
def test_bytes_of_a_format(outputs, inputs):
    size = {name: f.nbytes(outputs, inputs) for name, f in QUANT_FORMATS.items()}
    assert size["int8"] == outputs * (inputs + 2)
    assert size["int4"] == size["int4-g64"] == outputs * (inputs // 2 + 2 * -(-inputs // 64))
    assert size["int4-g128"] < size["int4-g64"] < size["int4-g32"] < size["int8"] < size["int8-g32"]
