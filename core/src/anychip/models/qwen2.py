"""Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with biases on q, k and v, and windows in the upper layers if asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anychip.errors import ModelError
from anychip.models import llama
from anychip.models.common import layer_windows, reader
from anychip.models.spec import ModelSpec, arrange_layers


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    return replace(windowed(config), architecture="Qwen2ForCausalLM", qkv_bias=True, out_bias=False)


def windowed(config: Mapping[str, Any]) -> ModelSpec:
    """Llama's spec with Qwen's rule for windows: from layer `max_window_layers` on, if `use_sliding_window`."""
    spec = llama.base(config)
    c = reader(config)
    count = len(spec.layers)
    used = c.bool("use_sliding_window", False)
    if not used and "sliding_attention" in c.list("layer_types", []):
        raise ModelError(
            "use_sliding_window is false in config.json, but layer_types names sliding_attention; correct one of them"
        )
    first = c.int("max_window_layers", 28, minimum=0) if used else count
    layers, groups = arrange_layers(
        layer_windows(c, count, [i >= first for i in range(count)]),
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        scale=spec.head_dim**-0.5,
        eps=spec.eps,
    )
    return replace(spec, layers=layers, groups=groups)
