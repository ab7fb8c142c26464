"""Qwen3-MoE (arXiv:2505.09388): Qwen3 with experts in all layers but the ones named dense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anychip_sdk.contract import MoESpec

from anychip.models import qwen3
from anychip.models.common import reader
from anychip.models.spec import ModelSpec


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    spec = qwen3.from_config(config)
    c = reader(config)
    experts = c.int("num_experts", None) or c.int("num_local_experts")
    step = c.int("decoder_sparse_step", 1)
    dense = set(c.list("mlp_only_layers", []))
    moe = MoESpec(
        experts=experts,
        top_k=c.int("num_experts_per_tok"),
        renormalize=c.bool("norm_topk_prob", False),
        activation=spec.activation,
    )
    return replace(
        spec,
        architecture="Qwen3MoeForCausalLM",
        moe=moe,
        moe_names="qwen",
        moe_intermediate_size=c.int("moe_intermediate_size"),
        dense=tuple(i in dense or (i + 1) % step != 0 for i in range(len(spec.layers))),
    )
