"""Tiny random checkpoints, written with numpy: nothing is downloaded and no framework is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anychip_sdk.conformance.numerics import rounded
from anychip_sdk.contract import DType

VOCAB: Final = 128
POISON: Final = 127
"""A token whose embedding the faults area makes NaN; no prompt holds it otherwise."""

_BASE: Final[dict[str, Any]] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "rope_theta": 1000.0, "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip

FAMILIES: Final[Mapping[str, dict[str, Any]]] = {
    "llama": _BASE | {"architectures": ["LlamaForCausalLM"], "attention_bias": True},
    "qwen3": _BASE | {"architectures": ["Qwen3ForCausalLM"], "num_attention_heads": 3, "num_key_value_heads": 1,
                      "tie_word_embeddings": True},
    "mistral": _BASE | {"architectures": ["MistralForCausalLM"], "sliding_window": 20},
    "gemma3": _BASE | {
        "architectures": ["Gemma3ForCausalLM"], "sliding_window": 20, "query_pre_attn_scalar": 64,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 6.0, "final_logit_softcapping": 20.0,
        "rope_local_base_freq": 100.0, "tie_word_embeddings": True,
    },
    "mixtral": _BASE | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip
"""Family -> its config.json."""

PROFILE: Final[Mapping[str, tuple[str, ...]]] = {
    "llama": (), "qwen3": (), "mistral": ("swa",), "gemma3": ("swa", "softcap"), "mixtral": ("moe",),
}  # fmt: skip
"""Family -> the profiles a device must declare to run it."""


def write(family: str, folder: Path, dtype: DType, seed: int) -> Path:
    """A checkpoint whose values are on the grid of `dtype`, so that every engine has the same weights."""
    from safetensors.numpy import save_file

    config, rng = FAMILIES[family], np.random.default_rng([seed, len(family), ord(family[0])])
    tensors = {
        name: np.ascontiguousarray(rounded(_values(rng, name, shape, family), dtype), np.float32)
        for name, shape in shapes(config).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...], family: str) -> NDArray[Any]:
    """Random biases and norms too. The head is strong, so that near ties of two tokens are rare."""
    x = rng.standard_normal(shape)
    scale = 0.3 if len(shape) == 1 else 1.2 * shape[-1] ** -0.5
    if "norm" in name:
        x += 0.0 if family == "gemma3" else 5.0  # Gemma adds the one itself
        scale = 0.2
    elif "embed" in name or "lm_head" in name:
        scale = 0.6
    elif "block_sparse_moe.gate" in name:
        scale = 8 * shape[-1] ** -0.5  # the last expert chosen weighs little: a near tie for it changes little
    return x * scale


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, as on the Hugging Face hub."""
    E, M, D = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    H, K, V = config["num_attention_heads"], config["num_key_value_heads"], config["vocab_size"]
    architecture = config["architectures"][0]
    found = {"model.embed_tokens.weight": (V, E), "model.norm.weight": (E,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (V, E)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        found |= {f"{at}.input_layernorm.weight": (E,), f"{at}.post_attention_layernorm.weight": (E,)}
        sizes = {"q_proj": (H * D, E), "k_proj": (K * D, E), "v_proj": (K * D, E), "o_proj": (E, H * D)}
        found |= {f"{at}.self_attn.{n}.weight": s for n, s in sizes.items()}
        if config.get("attention_bias"):
            found |= {f"{at}.self_attn.{n}.bias": s[:1] for n, s in sizes.items()}
        if architecture.startswith(("Qwen3", "Gemma3")):
            found |= {f"{at}.self_attn.{n}.weight": (D,) for n in ("q_norm", "k_norm")}
        if architecture.startswith("Gemma3"):
            found |= {f"{at}.{n}_feedforward_layernorm.weight": (E,) for n in ("pre", "post")}
        found |= _mlp(at, config, E, M)
    return found


def _mlp(at: str, config: Mapping[str, Any], E: int, M: int) -> dict[str, tuple[int, ...]]:
    if "num_local_experts" not in config:
        names = {"gate_proj": (M, E), "up_proj": (M, E), "down_proj": (E, M)}
        return {f"{at}.mlp.{n}.weight": s for n, s in names.items()}
    found: dict[str, tuple[int, ...]] = {f"{at}.block_sparse_moe.gate.weight": (config["num_local_experts"], E)}
    for e in range(config["num_local_experts"]):
        sizes = {"w1": (M, E), "w3": (M, E), "w2": (E, M)}
        found |= {f"{at}.block_sparse_moe.experts.{e}.{n}.weight": s for n, s in sizes.items()}
    return found


def prompts(lengths: tuple[int, ...], seed: int) -> list[list[int]]:
    """Random token ids, POISON never among them."""
    rng = np.random.default_rng(seed)
    return [[int(t) for t in rng.integers(0, POISON, n)] for n in lengths]
