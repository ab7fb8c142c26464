"""Which weights of a model a quantised format is for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anychip_sdk.contract import QUANT_FORMATS, WeightSpec

HEAD = "int8"
"""What the head is kept in where the rest has fewer bits: its errors go straight into the logits."""


def quantized(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """A tree of weights whose linear layers and experts are to be kept in the format `name`, the head in at least 8
    bits. Routers stay as they are (they are small, and choose), and so do norms and the embedding's table."""
    head = name if QUANT_FORMATS[name].bits >= 8 else HEAD
    changed = {**tree, "layers": [_layer(layer, name) for layer in tree["layers"]]}
    place = "head" if "head" in tree else "embed"
    return {**changed, place: replace(tree[place], quantize=head)}


def formats(tree: dict[str, Any], name: str) -> tuple[str, ...]:
    """What `quantized` asks of a device."""
    made = quantized(tree, name)
    head = made.get("head", made["embed"])
    return tuple(dict.fromkeys((name, head.quantize)))


def _layer(layer: dict[str, Any], name: str) -> dict[str, Any]:
    def changed(key: str, spec: WeightSpec) -> WeightSpec:
        meant = spec.kind in ("linear", "experts") and key != "router"
        return replace(spec, quantize=name) if meant else spec

    return {key: changed(key, spec) for key, spec in layer.items()}
