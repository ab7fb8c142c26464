"""Mixtral (arXiv:2401.04088): Mistral with experts in every layer, the chosen ones' weights summing to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anychip_sdk.contract import MoESpec

from anychip.models import mistral
from anychip.models.common import reader
from anychip.models.spec import ModelSpec


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    spec = mistral.from_config(config)
    c = reader(config)
    moe = MoESpec(
        experts=c.int("num_local_experts"),
        top_k=c.int("num_experts_per_tok"),
        renormalize=True,
        activation=spec.activation,
    )
    return replace(
        spec,
        architecture="MixtralForCausalLM",
        moe=moe,
        moe_names="mixtral",
        moe_intermediate_size=spec.intermediate_size,
        dense=(False,) * len(spec.layers),
    )
