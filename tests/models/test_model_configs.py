"""config.json -> ModelSpec: what each field does, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from anychip.errors import ModelError
from anychip.models import decoder
from anychip.models.registry import ARCHITECTURES, family
from anychip.models.spec import ModelSpec

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
OWN: dict[str, dict[str, Any]] = {
    "Gemma3ForCausalLM": {"sliding_window": 8},
    "MixtralForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3MoeForCausalLM": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}


def spec(architecture: str = "LlamaForCausalLM", **fields: Any) -> ModelSpec:
    config = LLAMA | OWN.get(architecture, {}) | {"architectures": [architecture]} | fields
    return family(config).from_config(config)


def windows(model: ModelSpec) -> list[int | None]:
    return [layer.attention.window for layer in model.layers]


def test_llama_fields() -> None:
    model = spec()
    assert (model.vocab_size, model.hidden_size, model.intermediate_size) == (96, 64, 80)
    assert (model.num_heads, model.num_kv_heads, model.head_dim, model.max_len, model.eps) == (4, 2, 16, 256, 1e-5)
    assert model.layers[0].attention.scale == 16**-0.5
    assert not model.tied
    assert [g.layers for g in model.groups] == [6]
    assert (model.groups[0].kv_heads, model.groups[0].k_dim, model.groups[0].v_dim) == (2, 16, 16)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_spec_is_plain_frozen_data(architecture: str) -> None:
    model = spec(architecture)
    assert model.architecture == architecture
    assert hash(model) == hash(spec(architecture))
    assert model == spec(architecture)


def test_defaults_of_absent_fields() -> None:
    no_kv_heads = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert family(LLAMA).from_config(no_kv_heads).num_kv_heads == 4
    assert spec(head_dim=None).head_dim == 16
    assert spec("Gemma3ForCausalLM").tied
    assert spec("MixtralForCausalLM").rope == spec(rope_theta=1e6).rope


def test_layers_of_one_window_share_a_group() -> None:
    model = spec("Gemma3ForCausalLM", sliding_window_pattern=3)
    assert windows(model) == [8, 8, None, 8, 8, None]
    assert [(g.layers, g.window) for g in model.groups] == [(4, 8), (2, None)]
    assert [layer.attention.group for layer in model.layers] == [0, 0, 1, 0, 0, 1]
    assert [layer.kv_index for layer in model.layers] == [0, 1, 0, 2, 3, 1]
    assert [layer.rope for layer in model.layers] == [1, 1, 0, 1, 1, 0]


def test_mistral_window() -> None:
    assert windows(spec("MistralForCausalLM", sliding_window=32)) == [32] * 6
    assert windows(spec("MistralForCausalLM", sliding_window=None)) == [None] * 6
    assert windows(spec("MistralForCausalLM")) == [4096] * 6
    types = ["full_attention", "sliding_attention"] * 3
    assert windows(spec("MistralForCausalLM", sliding_window=32, layer_types=types)) == [None, 32] * 3
    assert windows(spec("MistralForCausalLM", layer_types=types)) == [None, 4096] * 3


def test_qwen_windows() -> None:
    fields = {"sliding_window": 8, "max_window_layers": 4}
    assert windows(spec("Qwen2ForCausalLM", **fields)) == [None] * 6
    assert windows(spec("Qwen2ForCausalLM", use_sliding_window=True, **fields)) == [None] * 4 + [8] * 2
    assert windows(spec("Qwen3ForCausalLM", use_sliding_window=True, sliding_window=8)) == [None] * 6
    types = ["sliding_attention", "full_attention"] * 3
    assert windows(spec("Qwen3ForCausalLM", use_sliding_window=True, layer_types=types, **fields)) == [8, None] * 3


def test_qwen3_moe_window_holds_for_every_layer_or_none() -> None:
    fields = {"sliding_window": 8, "max_window_layers": 4}
    assert windows(spec("Qwen3MoeForCausalLM", use_sliding_window=False, **fields)) == [None] * 6
    assert windows(spec("Qwen3MoeForCausalLM", **fields)) == [None] * 6
    assert windows(spec("Qwen3MoeForCausalLM", use_sliding_window=True, **fields)) == [8] * 6


def test_gemma3_settings() -> None:
    model = spec("Gemma3ForCausalLM", query_pre_attn_scalar=25, attn_logit_softcapping=50.0, final_logit_softcapping=30)
    assert {layer.attention.scale for layer in model.layers} == {0.2}
    assert {layer.attention.softcap for layer in model.layers} == {50.0}
    assert (model.final_softcap, model.embedding_scale, model.norm_offset) == (30.0, 8.0, 1.0)


def test_tensor_parallel_hints_and_offsets() -> None:
    for architecture in ARCHITECTURES:
        model = spec(architecture)
        tree = decoder.weights(model)
        assert {key: w.tp for key, w in tree["layers"][0].items() if w.kind != "norm"} == {
            "qkv": "out", "out": "in", "gate_up": "out", "down": "in"
        } | ({"router": None} if model.moe else {})  # fmt: skip
        norms = [tree["norm"], *(w for layer in tree["layers"] for w in layer.values() if w.kind == "norm")]
        assert {w.offset for w in norms} == {1.0 if architecture == "Gemma3ForCausalLM" else 0.0}
        assert ("head" in tree) is not model.tied
        assert model.tied or tree["head"].tp == "out"


def test_qwen3_moe_dense_layers() -> None:
    assert spec("Qwen3MoeForCausalLM", mlp_only_layers=[1, 4]).dense == (False, True, False, False, True, False)
    assert spec("Qwen3MoeForCausalLM", decoder_sparse_step=2).dense == (True, False) * 3


@pytest.mark.parametrize("architectures", [["GPT2LMHeadModel"], [], None, "LlamaForCausalLM", [{"a": 1}], [None]])
def test_unknown_architecture(architectures: Any) -> None:
    with pytest.raises(ModelError, match="is unknown; known: LlamaForCausalLM, MistralForCausalLM") as error:
        family({"architectures": architectures})
    assert all(name in str(error.value) for name in ARCHITECTURES)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("LlamaForCausalLM", {"hidden_act": "relu"}, "hidden_act is 'relu'.*known: silu"),
    ("LlamaForCausalLM", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config.*'gptq'"),
    ("LlamaForCausalLM", {"quantization_config": "fp8"}, "quantization_config.*'fp8'"),
    ("LlamaForCausalLM", {"vocab_size": None}, "LlamaForCausalLM.*lacks 'vocab_size'"),
    ("LlamaForCausalLM", {"max_position_embeddings": None}, "lacks 'max_position_embeddings'"),
    ("LlamaForCausalLM", {"rms_norm_eps": None}, "lacks 'rms_norm_eps'"),
    ("LlamaForCausalLM", {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
    ("LlamaForCausalLM", {"hidden_size": "64"}, "'hidden_size' is '64', expected an integer"),
    ("LlamaForCausalLM", {"num_hidden_layers": 0}, "'num_hidden_layers' is 0, expected at least 1"),
    ("LlamaForCausalLM", {"num_key_value_heads": 3}, "num_attention_heads is 4.*num_key_value_heads 3"),
    ("LlamaForCausalLM", {"head_dim": 15}, "head_dim is 15.*even"),
    ("LlamaForCausalLM", {"hidden_size": 2, "num_attention_heads": 4}, "head_dim is 0"),
    ("LlamaForCausalLM", {"tie_word_embeddings": 1}, "'tie_word_embeddings' is 1, expected true or false"),
    ("LlamaForCausalLM", {"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "rope_type is 'dynamic'"),
    ("LlamaForCausalLM", {"sliding_window": 8}, "sliding_window is 8.*LlamaForCausalLM does not have.*Mistral"),
    ("LlamaForCausalLM", {"layer_types": ["sliding_attention"] * 6}, "LlamaForCausalLM does not have; remove"),
    ("MistralForCausalLM", {"sliding_window": None, "layer_types": ["sliding_attention"] * 6}, "lacks 'sliding_window"),
    ("MixtralForCausalLM", {"sliding_window": 8, "layer_types": ["full_attention"] * 6}, "layer_types.*one kind"),
    (
        "Qwen3MoeForCausalLM",
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"] * 3},
        "layer_types in config.json does not say.*one kind",
    ),
    ("MistralForCausalLM", {"sliding_window": 0}, "'sliding_window' is 0, expected at least 1"),
    ("Qwen2ForCausalLM", {"use_sliding_window": True, "max_window_layers": 0}, "lacks 'sliding_window'"),
    ("Qwen2ForCausalLM", {"layer_types": ["sliding_attention"] * 6}, "use_sliding_window is false.*layer_types"),
    ("Qwen3ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types.*each of the 6 layers"),
    ("Qwen3ForCausalLM", {"layer_types": ["linear_attention"] * 6}, "layer_types.*full_attention or sliding_attention"),
    ("Gemma3ForCausalLM", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'.*gelu_pytorch_tanh"),
    ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
    ("Gemma3ForCausalLM", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
    ("Gemma3ForCausalLM", {"final_logit_softcapping": 0.0}, "final_logit_softcapping is 0"),
    ("Gemma3ForCausalLM", {"attn_logit_softcapping": -1.0}, "attn_logit_softcapping is -1"),
    ("MixtralForCausalLM", {"num_local_experts": None}, "lacks 'num_local_experts'"),
    ("MixtralForCausalLM", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5.*4 experts"),
    ("Qwen3MoeForCausalLM", {"mlp_only_layers": [[1]]}, r"mlp_only_layers is \[\[1\]\]"),
    ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 0}, "'decoder_sparse_step' is 0"),
]


@pytest.mark.parametrize(("architecture", "fields", "message"), WRONG)
def test_wrong_fields(architecture: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        spec(architecture, **fields)
    assert "\n" not in str(error.value)
