"""Tiny random checkpoints of every family, built in the process with Transformers, and its greedy tokens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import transformers as tf

VOCAB = 96
BASE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "eos_token_id": None, "bos_token_id": None,
    "pad_token_id": None, "initializer_range": 0.4,
}  # fmt: skip
HEADS = BASE | {"head_dim": 8}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 500.0,
}  # fmt: skip
GEMMA = HEADS | {
    "initializer_range": 0.2, "sliding_window": 20, "query_pre_attn_scalar": 8, "final_logit_softcapping": 30.0,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
MOE = {"num_experts_per_tok": 2}
FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (tf.LlamaConfig, tf.LlamaForCausalLM, HEADS),
    "llama3": (
        tf.LlamaConfig,
        tf.LlamaForCausalLM,
        HEADS | {"tie_word_embeddings": True, "rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral": (tf.MistralConfig, tf.MistralForCausalLM, HEADS | {"sliding_window": 20}),
    "qwen2": (
        tf.Qwen2Config,
        tf.Qwen2ForCausalLM,
        BASE | {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2},
    ),
    "qwen3": (tf.Qwen3Config, tf.Qwen3ForCausalLM, HEADS),
    "gemma3": (tf.Gemma3TextConfig, tf.Gemma3ForCausalLM, GEMMA),
    "mixtral": (tf.MixtralConfig, tf.MixtralForCausalLM, HEADS | MOE | {"num_local_experts": 4}),
    "qwen3_moe": (
        tf.Qwen3MoeConfig,
        tf.Qwen3MoeForCausalLM,
        HEADS | MOE | {"num_experts": 4, "moe_intermediate_size": 24, "mlp_only_layers": [1], "norm_topk_prob": True},
    ),
}


def build(family: str, directory: Path, *, dtype: torch.dtype = torch.float32, **save: Any) -> Any:
    """Writes the checkpoint and returns the Transformers model. Biases and norms are random too, so that a family that
    forgets one is found out."""
    config, model_class, fields = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config(**fields, attn_implementation="eager")).eval()
    for name, parameter in model.named_parameters():
        if "bias" in name or "norm" in name:
            torch.nn.init.normal_(parameter, 0.2, 0.3)
    model = model.to(dtype)
    model.save_pretrained(directory, **save)
    return model


def prompts(count: int, lengths: tuple[int, ...] = (), seed: int = 1) -> list[list[int]]:
    """`lengths` first, then ragged ones up to 60 tokens."""
    r = random.Random(seed)
    sizes = [*lengths, *(r.randint(1, 60) for _ in range(count - len(lengths)))]
    return [[r.randrange(VOCAB) for _ in range(size)] for size in sizes]


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """What Transformers generates."""
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False)
    return out[0, len(prompt) :].tolist()
