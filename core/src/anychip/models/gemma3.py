"""Gemma 3 text models (arXiv:2503.19786): norms before and after each part, local layers with a window and a rope base
of their own between global ones, q/k norms, scaled embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anychip.errors import ModelError
from anychip.models.common import activation, layer_windows, num_layers, positive, reader, sizes
from anychip.models.rope import rope_table
from anychip.models.spec import ModelSpec, arrange_layers


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    c = reader(config)
    if c.bool("use_bidirectional_attention", False):
        raise ModelError(
            "use_bidirectional_attention is true in config.json; known: false: use a causal model, not an encoder"
        )
    s = sizes(c)
    count = num_layers(c)
    every = c.int("sliding_window_pattern", c.int("_sliding_window_pattern", 6))
    windows = layer_windows(c, count, [bool((i + 1) % every) for i in range(count)])
    layers, groups = arrange_layers(
        windows,
        num_kv_heads=s["num_kv_heads"],
        head_dim=s["head_dim"],
        scale=positive(c, "query_pre_attn_scalar", 256.0) ** -0.5,
        eps=s["eps"],
        softcap=positive(c, "attn_logit_softcapping", None),
        rope=[0 if window is None else 1 for window in windows],
    )
    return ModelSpec(
        architecture="Gemma3ForCausalLM",
        layers=layers,
        groups=groups,
        rope=(
            rope_table(c, s["head_dim"], theta=1_000_000.0, section="full_attention"),
            rope_table(c, s["head_dim"], theta_field="rope_local_base_freq", section="sliding_attention", scaled=False),
        ),
        activation=activation(c, "hidden_activation", "gelu_pytorch_tanh"),
        tied=c.bool("tie_word_embeddings", True),
        qkv_bias=c.bool("attention_bias", False),
        out_bias=c.bool("attention_bias", False),
        qk_norm=True,
        sandwich_norms=True,
        norm_offset=1.0,
        embedding_scale=s["hidden_size"] ** 0.5,
        final_softcap=positive(c, "final_logit_softcapping", None),
        **s,
    )
