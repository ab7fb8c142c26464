"""Mixtral (arXiv:2401.04088): Mistral with experts in every layer, the chosen ones' weights summing to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anychip.models import mistral
from anychip.models.common import moe_routing, reader
from anychip.models.rope import rope_table
from anychip.models.spec import ModelSpec


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    c = reader(config)
    spec = mistral.windowed(config, c.int("sliding_window", None))
    return replace(
        spec,
        architecture="MixtralForCausalLM",
        rope=(rope_table(c, spec.head_dim, theta=1_000_000.0),),
        moe=moe_routing(c, renormalize=True, kind=spec.activation),
        moe_names="mixtral",
        moe_intermediate_size=spec.intermediate_size,
        dense=(False,) * len(spec.layers),
    )
