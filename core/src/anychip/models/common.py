"""The config fields that all families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from anychip_sdk.contract import Activation, MoESpec

from anychip.errors import ModelError
from anychip.loading.config import ConfigReader

ACTIVATIONS: Mapping[str, Activation] = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
MAX_LAYERS, MAX_EXPERTS, MAX_HEAD_DIM = 4096, 4096, 16384
"""Far beyond any model. A damaged config.json must not fill the memory before its weights are looked at."""
D = TypeVar("D", float, None)


def reader(config: Mapping[str, Any]) -> ConfigReader:
    """Raises ModelError for a quantised checkpoint: its weights are not what their names say."""
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
        raise ModelError(
            f"quantization_config in config.json asks for {method!r}, which anychip does not read (known: none); "
            "use the original, unquantised weights"
        )
    return ConfigReader(config, "config.json")


def sizes(c: ConfigReader) -> dict[str, Any]:
    """The fields of ModelSpec that every config.json has under the same names."""
    heads = c.int("num_attention_heads")
    kv_heads = c.int("num_key_value_heads", heads)
    hidden = c.int("hidden_size")
    head_dim = c.int("head_dim", None, maximum=MAX_HEAD_DIM) or hidden // heads
    if heads % kv_heads:
        raise ModelError(
            f"num_attention_heads is {heads} in config.json, expected a multiple of num_key_value_heads {kv_heads}; "
            "correct the fields"
        )
    if not 2 <= head_dim <= MAX_HEAD_DIM or head_dim % 2:
        raise ModelError(
            f"head_dim is {head_dim} in config.json, expected an even one up to {MAX_HEAD_DIM}; use another model"
        )
    return {
        "vocab_size": c.int("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": c.int("intermediate_size"),
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "max_len": c.int("max_position_embeddings", minimum=2),  # a prompt's token and one more
        "eps": positive(c, "rms_norm_eps"),
    }


def num_layers(c: ConfigReader) -> int:
    return c.int("num_hidden_layers", maximum=MAX_LAYERS)


def positive(c: ConfigReader, field: str, *default: D) -> float | D:
    """A number above zero. Raises ModelError for any other; without a default the field must be there."""
    value = c.float(field, *default)
    if value is not None and value <= 0:
        raise ModelError(f"{field} is {value:g} in config.json, expected a number above 0; correct the field")
    return value


def activation(c: ConfigReader, field: str = "hidden_act", default: str = "silu") -> Activation:
    """The gated MLP's activation. Raises ModelError for one that the ops do not have."""
    name = c.str(field, default)
    if name not in ACTIVATIONS:
        raise ModelError(f"{field} is {name!r} in config.json; known: {', '.join(ACTIVATIONS)}: use another model")
    return ACTIVATIONS[name]


def layer_windows(c: ConfigReader, count: int, sliding: list[bool], window: int | None = None) -> list[int | None]:
    """The window of each layer: `layer_types` where the config has it, else `sliding` as the family says. window: the
    length, where the family knows it; else it is `sliding_window`."""
    types = c.list("layer_types", None)
    if types is not None:
        if len(types) != count or any(t not in ("full_attention", "sliding_attention") for t in types):
            raise ModelError(
                "layer_types in config.json must name full_attention or sliding_attention for each of the "
                f"{count} layers (num_hidden_layers); use another model"
            )
        sliding = [t == "sliding_attention" for t in types]
    if not any(sliding):
        return [None] * count
    window = window or c.int("sliding_window")
    return [window if s else None for s in sliding]


def moe_routing(c: ConfigReader, *, renormalize: bool, kind: Activation) -> MoESpec:
    """Experts and how many of them a token takes. `num_local_experts` is Mixtral's name, `num_experts` Qwen's;
    either may hold the count in either family."""
    experts = c.int("num_experts", None, maximum=MAX_EXPERTS) or c.int("num_local_experts", maximum=MAX_EXPERTS)
    top_k = c.int("num_experts_per_tok")
    if top_k > experts:
        raise ModelError(
            f"num_experts_per_tok is {top_k} in config.json, expected at most the {experts} experts; correct the field"
        )
    return MoESpec(experts=experts, top_k=top_k, renormalize=renormalize, activation=kind)
