"""Qwen3-MoE (arXiv:2505.09388): Qwen3 with experts in all layers but the ones named dense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anychip.errors import ModelError
from anychip.models import mistral
from anychip.models.common import moe_routing, reader
from anychip.models.spec import ModelSpec


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    c = reader(config)
    # Unlike Qwen3's, this architecture's window holds for every layer: it reads no max_window_layers.
    window = c.int("sliding_window", None) if c.bool("use_sliding_window", False) else None
    spec = mistral.windowed(config, window)
    step = c.int("decoder_sparse_step", 1)
    plain = c.list("mlp_only_layers", [])
    if any(not isinstance(i, int) for i in plain):
        raise ModelError(f"mlp_only_layers is {plain!r} in config.json, expected layer numbers; correct the field")
    return replace(
        spec,
        architecture="Qwen3MoeForCausalLM",
        qk_norm=True,
        moe=moe_routing(c, renormalize=c.bool("norm_topk_prob", False), kind=spec.activation),
        moe_names="qwen",
        moe_intermediate_size=c.int("moe_intermediate_size"),
        dense=tuple(i in plain or (i + 1) % step != 0 for i in range(len(spec.layers))),
    )
