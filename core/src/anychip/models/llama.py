"""Llama 2 and 3 (arXiv:2302.13971, arXiv:2407.21783): the plain pre-norm decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anychip.errors import ModelError
from anychip.models.common import activation, num_layers, reader, sizes
from anychip.models.rope import rope_table
from anychip.models.spec import ModelSpec, arrange_layers


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    c = reader(config)
    window = c.int("sliding_window", None)
    narrow = window is not None and window < c.int("max_position_embeddings")
    if narrow or "sliding_attention" in c.list("layer_types", []):
        raise ModelError(
            f"config.json asks for windows (sliding_window is {window}), which LlamaForCausalLM does not have; remove "
            "sliding_window and layer_types, or name MistralForCausalLM in architectures if it was trained with windows"
        )
    return base(config)


def base(config: Mapping[str, Any]) -> ModelSpec:
    """What the families that are Llama with a difference start from: its spec, windows left aside."""
    c = reader(config)
    s = sizes(c)
    layers, groups = arrange_layers(
        [None] * num_layers(c),
        num_kv_heads=s["num_kv_heads"],
        head_dim=s["head_dim"],
        scale=s["head_dim"] ** -0.5,
        eps=s["eps"],
    )
    return ModelSpec(
        architecture="LlamaForCausalLM",
        layers=layers,
        groups=groups,
        rope=(rope_table(c, s["head_dim"]),),
        activation=activation(c),
        tied=c.bool("tie_word_embeddings", False),
        qkv_bias=c.bool("attention_bias", False),
        out_bias=c.bool("attention_bias", False),
        mlp_bias=c.bool("mlp_bias", False),
        **s,
    )
