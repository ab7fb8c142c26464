"""The check of a checkpoint's tensors against its config, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from anychip_sdk.contract import WeightSpec

from anychip.errors import ModelError
from anychip.models.decoder import weights
from anychip.models.spec import ModelSpec

Shapes = Mapping[str, tuple[int, ...]]
Axis = tuple[int, str]
"""A length and the fields of config.json that it follows from."""


def check(spec: ModelSpec, shapes: Shapes) -> None:
    """shapes: of every tensor in the checkpoint. Raises ModelError unless every tensor of the model is there with
    the shape that config.json implies, and no layer has a bias that config.json knows nothing of."""
    wanted = dict(tensors(spec))
    missing = [name for name in wanted if name not in shapes]
    if missing:
        raise ModelError(
            f"the checkpoint lacks {len(missing)} of the {len(wanted)} tensors its config.json asks for, the first is "
            f"{missing[0]!r}; use a complete checkpoint whose weights belong to this config.json"
        )
    for name, axes in wanted.items():
        if tuple(shapes[name]) != tuple(length for length, _ in axes):
            raise ModelError(
                f"tensor {name!r} has shape {list(shapes[name])}, expected {[length for length, _ in axes]} "
                f"({', '.join(field for _, field in axes)} in config.json); use weights that belong to this config.json"
            )
        bias = f"{name.removesuffix('.weight')}.bias"
        if bias in shapes and bias not in wanted:
            raise ModelError(
                f"the checkpoint has tensor {bias!r}, expected no bias there; set attention_bias or mlp_bias in "
                "config.json if the architecture has one, or use another model"
            )


def shapes_of(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model."""
    return {name: tuple(length for length, _ in axes) for name, axes in tensors(spec)}


def tensors(spec: ModelSpec) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    """Name and axes of every tensor of the model."""
    tree = weights(spec)
    hidden: Axis = (spec.hidden_size, "hidden_size")
    vocabulary: Axis = (spec.vocab_size, "vocab_size")
    yield from _tensors(tree["embed"], [(vocabulary, hidden)])
    yield from _tensors(tree["norm"], [(hidden,)])
    if "head" in tree:
        yield from _tensors(tree["head"], [(vocabulary, hidden)])
    for layer in tree["layers"]:
        sizes = _layer_sizes(spec, sparse="router" in layer)
        for key, w in layer.items():
            yield from _tensors(w, sizes[key])


def _layer_sizes(spec: ModelSpec, *, sparse: bool) -> dict[str, list[tuple[Axis, ...]]]:
    """Axes of each part of each handle of a layer. sparse: with experts."""
    hidden: Axis = (spec.hidden_size, "hidden_size")
    head: Axis = (spec.head_dim, "head_dim")
    q: Axis = (spec.num_heads * spec.head_dim, "num_attention_heads * head_dim")
    kv: Axis = (spec.num_kv_heads * spec.head_dim, "num_key_value_heads * head_dim")
    width: Axis = (spec.intermediate_size, "intermediate_size")
    if sparse and spec.moe_names == "qwen":
        width = (spec.moe_intermediate_size, "moe_intermediate_size")
    experts: Axis = (spec.moe.experts if spec.moe else 0, "num_local_experts or num_experts")
    return {
        "attention_norm": [(hidden,)],
        "attention_post_norm": [(hidden,)],
        "mlp_norm": [(hidden,)],
        "mlp_post_norm": [(hidden,)],
        "q_norm": [(head,)],
        "k_norm": [(head,)],
        "qkv": [(q, hidden), (kv, hidden), (kv, hidden)],
        "out": [(hidden, q)],
        "router": [(experts, hidden)],
        "gate_up": [(width, hidden), (width, hidden)],
        "down": [(hidden, width)],
    }


def _tensors(w: WeightSpec, sizes: list[tuple[Axis, ...]]) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    """Every name of a handle with its axes; a bias has the first axis of its part."""
    for names, axes in zip(w.parts, sizes, strict=True):
        for name in names:
            yield name, axes
    if w.bias:
        for name, axes in zip(w.bias, sizes, strict=True):
            yield name, axes[:1]
