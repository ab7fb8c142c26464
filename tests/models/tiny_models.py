"""Tiny random checkpoints of every family, made by Transformers in the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-2,  # large, so that a wrong one shows
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GEMMA = {"num_hidden_layers": 4, "sliding_window": 5, "sliding_window_pattern": 2, "query_pre_attn_scalar": 24}

# name of the case -> configuration class, what differs from SIZES
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama-mha-tied": ("LlamaConfig", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama-mqa-narrow-head": ("LlamaConfig", {"num_key_value_heads": 1, "head_dim": 8}),
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-llama3-rope": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama-linear-rope": ("LlamaConfig", {"rope_parameters": LINEAR}),
    "mistral-window": ("MistralConfig", {"sliding_window": 5}),
    "mistral-no-window": ("MistralConfig", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2-upper-windows": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen2-layer-types": (
        "Qwen2Config",
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3": ("Qwen3Config", {"tie_word_embeddings": True}),
    "qwen3-bias-windows": (
        "Qwen3Config",
        {"attention_bias": True, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    ),
    "gemma3": ("Gemma3TextConfig", GEMMA),
    "gemma3-softcap-linear-rope": (
        "Gemma3TextConfig",
        {
            **GEMMA,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral-window": ("MixtralConfig", {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 5}),
    "qwen3-moe": ("Qwen3MoeConfig", {**MOE, "norm_topk_prob": True}),
    "qwen3-moe-dense-layers": ("Qwen3MoeConfig", {**MOE, "num_hidden_layers": 4, "mlp_only_layers": [1]}),
    "qwen3-moe-sparse-step": ("Qwen3MoeConfig", {**MOE, "decoder_sparse_step": 2}),
    "qwen3-moe-window": ("Qwen3MoeConfig", {**MOE, "use_sliding_window": True, "sliding_window": 4}),
}


def tiny_config(case: str, **changes: Any) -> transformers.PretrainedConfig:
    name, own = CASES[case]
    return getattr(transformers, name)(**{**SIZES, **own, **changes})


def tiny_model(case: str, **changes: Any) -> nn.Module:
    """A model in float32 whose weights, norms and biases are far enough from zero and one for a mistake to show."""
    torch.manual_seed(7)
    config = tiny_config(case, **changes)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # a norm or a bias: keeps its start, one or zero
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            else:
                parameter.normal_(std=0.2)
    return model


def save(model: nn.Module, directory: Path) -> Path:
    model.save_pretrained(directory)
    return directory


def older_form(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json as Transformers 4 wrote it: rope_theta, rope_scaling, rope_local_base_freq, torch_dtype, no
    layer_types where a pattern says the same."""
    old = dict(config)
    old["torch_dtype"] = old.pop("dtype", "float32")
    parameters = old.pop("rope_parameters")
    local = parameters.get("sliding_attention")
    if local is not None:
        old["rope_local_base_freq"] = local["rope_theta"]
        parameters = parameters["full_attention"]
        old["sliding_window_pattern"] = old.pop("_sliding_window_pattern")
        del old["layer_types"]
    old["rope_theta"] = parameters["rope_theta"]
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    old["rope_scaling"] = None if scaling == {"rope_type": "default"} else scaling
    if "num_experts_per_tok" in old and old["architectures"] == ["Qwen3MoeForCausalLM"]:
        old["num_experts"] = old.pop("num_local_experts")
    return old
