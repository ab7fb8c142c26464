"""The check of a checkpoint's tensors against its config, before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest
from anychip.errors import ModelError
from anychip.models.registry import Family, family
from anychip.models.spec import ModelSpec

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
MIXTRAL = CONFIG | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 3, "num_experts_per_tok": 2}
QWEN = CONFIG | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "mlp_only_layers": [0],
}
ATTENTION = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64)}
MLP = {"gate_proj": (80, 64), "up_proj": (80, 64), "down_proj": (64, 80)}
LAYER = "model.layers.1"

Shapes = dict[str, tuple[int, ...]]


def ready(config: dict[str, Any]) -> tuple[Family, ModelSpec]:
    kind = family(config)
    return kind, kind.from_config(config)


def trunk() -> Shapes:
    """Everything but the MLPs, named by hand."""
    shapes: Shapes = {"model.embed_tokens.weight": (96, 64), "model.norm.weight": (64,), "lm_head.weight": (96, 64)}
    for i in range(2):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{norm}.weight"] = (64,)
        for name, shape in ATTENTION.items():
            shapes[f"model.layers.{i}.self_attn.{name}.weight"] = shape
    return shapes


def mlp(i: int) -> Shapes:
    return {f"model.layers.{i}.mlp.{name}.weight": shape for name, shape in MLP.items()}


def llama() -> Shapes:
    return trunk() | mlp(0) | mlp(1)


def mixtral() -> Shapes:
    shapes = trunk()
    for i in range(2):
        at = f"model.layers.{i}.block_sparse_moe"
        shapes[f"{at}.gate.weight"] = (3, 64)
        for e in range(3):
            for name, shape in (("w1", (80, 64)), ("w3", (80, 64)), ("w2", (64, 80))):
                shapes[f"{at}.experts.{e}.{name}.weight"] = shape
    return shapes


def qwen3_moe() -> Shapes:
    shapes = trunk() | mlp(0) | {f"{LAYER}.mlp.gate.weight": (3, 64)}
    for i in range(2):
        for norm in ("q_norm", "k_norm"):
            shapes[f"model.layers.{i}.self_attn.{norm}.weight"] = (16,)
    for e in range(3):
        for name, shape in (("gate_proj", (24, 64)), ("up_proj", (24, 64)), ("down_proj", (64, 24))):
            shapes[f"{LAYER}.mlp.experts.{e}.{name}.weight"] = shape
    return shapes


@pytest.mark.parametrize(("config", "shapes"), [(CONFIG, llama()), (MIXTRAL, mixtral()), (QWEN, qwen3_moe())])
def test_right_shapes_pass(config: dict[str, Any], shapes: Shapes) -> None:
    kind, spec = ready(config)
    kind.check(spec, shapes)
    kind.check(spec, shapes | {f"{LAYER}.self_attn.rotary_emb.inv_freq": (8,)})


@pytest.mark.parametrize(
    ("config", "shapes"), [(CONFIG, llama()), (MIXTRAL, mixtral()), (QWEN, qwen3_moe())], ids=lambda x: ""
)
def test_every_tensor_is_needed_and_every_axis_checked(config: dict[str, Any], shapes: Shapes) -> None:
    kind, spec = ready(config)
    for name, shape in shapes.items():
        with pytest.raises(ModelError, match=f"lacks 1 of the {len(shapes)} tensors.*{name!r}"):
            kind.check(spec, {n: s for n, s in shapes.items() if n != name})
        for axis in range(len(shape)):
            wrong = (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])
            with pytest.raises(ModelError, match=f"tensor {name!r} has shape"):
                kind.check(spec, shapes | {name: wrong})
        with pytest.raises(ModelError, match=f"tensor {name!r} has shape"):
            kind.check(spec, shapes | {name: (*shape, 1)})


def test_message_of_a_wrong_shape() -> None:
    kind, spec = ready(CONFIG)
    with pytest.raises(ModelError) as error:
        kind.check(spec, llama() | {f"{LAYER}.self_attn.k_proj.weight": (64, 64)})
    assert str(error.value) == (
        "tensor 'model.layers.1.self_attn.k_proj.weight' has shape [64, 64], expected [32, 64] "
        "(num_key_value_heads * head_dim, hidden_size in config.json); use weights that belong to this config.json"
    )


def test_missing_tensors_are_counted_and_the_first_named() -> None:
    kind, spec = ready(CONFIG)
    with pytest.raises(ModelError, match=r"lacks 10 of the 21 tensors .* the first is 'lm_head.weight'"):
        kind.check(spec, {n: s for n, s in llama().items() if LAYER not in n and n != "lm_head.weight"})


def test_tied_models_need_no_head() -> None:
    kind, spec = ready(CONFIG | {"tie_word_embeddings": True})
    assert "head" not in kind.weights(spec)
    shapes = llama()
    kind.check(spec, shapes)
    del shapes["lm_head.weight"]
    kind.check(spec, shapes)


def test_biases() -> None:
    biases: Shapes = {}
    for i in range(2):
        for name, shape in ATTENTION.items():
            biases[f"model.layers.{i}.self_attn.{name}.bias"] = shape[:1]
    kind, spec = ready(CONFIG | {"attention_bias": True})
    kind.check(spec, llama() | biases)
    name = f"{LAYER}.self_attn.k_proj.bias"
    with pytest.raises(ModelError, match=r"k_proj.bias' has shape \[64\], expected \[32\]"):
        kind.check(spec, llama() | biases | {name: (64,)})
    kind, spec = ready(CONFIG)
    with pytest.raises(ModelError, match=f"has tensor {name!r}, expected no bias there; set attention_bias"):
        kind.check(spec, llama() | {name: (32,)})


def test_dense_and_sparse_layers_have_widths_of_their_own() -> None:
    kind, spec = ready(QWEN)
    with pytest.raises(ModelError, match=r"expected \[24, 64\] \(moe_intermediate_size, hidden_size"):
        kind.check(spec, qwen3_moe() | {f"{LAYER}.mlp.experts.2.up_proj.weight": (80, 64)})
    with pytest.raises(ModelError, match=r"expected \[80, 64\] \(intermediate_size, hidden_size"):
        kind.check(spec, qwen3_moe() | {"model.layers.0.mlp.up_proj.weight": (24, 64)})
