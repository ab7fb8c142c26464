"""The config fields that all families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anychip_sdk.contract import Activation

from anychip.errors import ModelError
from anychip.loading.config import ConfigReader

ACTIVATIONS: Mapping[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def reader(config: Mapping[str, Any]) -> ConfigReader:
    """Raises ModelError for a quantised checkpoint: its weights are not what their names say."""
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "?")
        raise ModelError(
            f"the checkpoint is quantised ({method}), which anychip does not read; use the original weights"
        )
    return ConfigReader(config, "config.json")


def sizes(c: ConfigReader) -> dict[str, Any]:
    """The fields of ModelSpec that every config.json has under the same names."""
    heads = c.int("num_attention_heads")
    kv_heads = c.int("num_key_value_heads", heads)
    hidden = c.int("hidden_size")
    head_dim = c.int("head_dim", None) or hidden // heads
    if heads % kv_heads:
        raise ModelError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads} in config.json")
    if head_dim % 2:
        raise ModelError(f"head_dim is {head_dim} in config.json; rope needs an even one")
    return {
        "vocab_size": c.int("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": c.int("intermediate_size"),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "max_len": c.int("max_position_embeddings", 2048),
        "eps": c.float("rms_norm_eps", 1e-6),
    }


def activation(c: ConfigReader, field: str = "hidden_act", default: str = "silu") -> Activation:
    name = c.str(field, default)
    if name not in ACTIVATIONS:
        raise ModelError(f"{field} is {name!r} in config.json; known: {', '.join(ACTIVATIONS)}: use another model")
    return ACTIVATIONS[name]


def layer_windows(c: ConfigReader, count: int, sliding: list[bool]) -> list[int | None]:
    """The window of each layer: `layer_types` where the config has it, else `sliding` as the family says."""
    types = c.list("layer_types", None)
    if types is not None:
        if len(types) != count or any(t not in ("full_attention", "sliding_attention") for t in types):
            raise ModelError(
                f"layer_types in config.json must name full_attention or sliding_attention for each of {count} layers"
            )
        sliding = [t == "sliding_attention" for t in types]
    if not any(sliding):
        return [None] * count
    window = c.int("sliding_window")
    return [window if s else None for s in sliding]
