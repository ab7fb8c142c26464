"""Mistral (arXiv:2310.06825): Llama with a sliding window over all layers, or those that the config names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anychip.errors import ModelError
from anychip.models import llama
from anychip.models.common import layer_windows, reader
from anychip.models.spec import ModelSpec, arrange_layers


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    # The first Mistral's window is the architecture's default; later ones switch it off with an explicit null.
    window = reader(config).int("sliding_window", None) if "sliding_window" in config else 4096
    return replace(windowed(config, window, mixed=True), architecture="MistralForCausalLM")


def windowed(config: Mapping[str, Any], window: int | None, *, mixed: bool = False) -> ModelSpec:
    """Llama's spec with `window` in every layer. mixed: or in those alone that `layer_types` calls sliding; else it is
    an error where the two differ."""
    spec = llama.base(config)
    c = reader(config)
    windows = [window] * len(spec.layers)
    if c.list("layer_types", None) is not None:
        windows = layer_windows(c, len(spec.layers), [], window)
    if not mixed and windows != [window] * len(spec.layers):
        raise ModelError(
            "layer_types in config.json does not say of every layer what sliding_window says, and the architecture has "
            "one kind of layer only; correct one of them"
        )
    layers, groups = arrange_layers(
        windows,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        scale=spec.head_dim**-0.5,
        eps=spec.eps,
    )
    return replace(spec, layers=layers, groups=groups)
