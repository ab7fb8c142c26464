"""Mistral (arXiv:2310.06825): Llama with a sliding window over all layers, where the config sets one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anychip.models import llama
from anychip.models.common import reader
from anychip.models.spec import ModelSpec, arrange_layers


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    # The first Mistral's window is the architecture's default; later ones switch it off with an explicit null.
    window = reader(config).int("sliding_window", None) if "sliding_window" in config else 4096
    return replace(windowed(config, window), architecture="MistralForCausalLM")


def windowed(config: Mapping[str, Any], window: int | None) -> ModelSpec:
    """Llama's spec with `window` in every layer."""
    spec = llama.from_config(config)
    layers, groups = arrange_layers(
        [window] * len(spec.layers),
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        scale=spec.head_dim**-0.5,
        eps=spec.eps,
    )
    return replace(spec, layers=layers, groups=groups)
