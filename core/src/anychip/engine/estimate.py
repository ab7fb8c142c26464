"""How long a step of a model takes at the rates that a chip's maker publishes. Nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anychip_sdk.contract import Rates, WeightSpec

from anychip.models.spec import ModelSpec

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Work:
    """A step: its tokens, its sequences, and how many tokens of context each of these has behind it."""

    tokens: int
    seqs: int
    context: int


@dataclass(frozen=True)
class Size:
    """Of a model. `active`: numbers that a token is multiplied with. `read`: bytes of weights that a step reads.
    `kv`: bytes of KV cache for each token that is seen, by the window of the layers that keep them."""

    active: float
    read: float
    kv: Mapping[int | None, int]


def size_of(
    spec: ModelSpec, tree: Mapping[str, Any], shapes: Shapes, *, weights: int, item: int, kv: Mapping[int | None, int]
) -> Size:
    """tree: WeightSpec of every weight. weights: bytes of all of them; item: of one number of the embedding."""
    active = 0.0
    leaves = [leaf for layer in tree["layers"] for leaf in layer.values()]
    for leaf in [*leaves, tree["embed"] if spec.tied else tree["head"]]:
        active += _numbers(leaf, shapes) * _share(leaf, spec)
    table = 0 if spec.tied else _numbers(tree["embed"], shapes) * item  # a step reads a row for each token
    return Size(active, weights - table, kv)


def _numbers(leaf: WeightSpec, shapes: Shapes) -> int:
    return sum(math.prod(shapes[name]) for part in leaf.parts for name in part if len(shapes[name]) > 1)


def _share(leaf: WeightSpec, spec: ModelSpec) -> float:
    """How much of a weight a token is multiplied with."""
    return spec.moe.top_k / spec.moe.experts if spec.moe is not None and leaf.kind == "experts" else 1.0


def step_seconds(spec: ModelSpec, size: Size, rates: Rates, work: Work) -> float:
    """The longer of reading weights and pages, and of the products, as all chips together do it; then the two sums of a
    layer among several chips, each of which a ring moves twice (Patarasuk and Yuan, 2009)."""
    seen = 4 * sum(spec.num_heads * spec.head_dim * _visible(layer.attention.window, work) for layer in spec.layers)
    products = work.tokens * (2 * size.active + seen)
    pages = work.seqs * sum(_visible(window, work) * bytes for window, bytes in size.kv.items())
    alone = max((size.read + pages) / rates.bandwidth, products / rates.flops) / rates.chips
    passed = 2 * len(spec.layers) * work.tokens * spec.hidden_size * 2  # two sums a layer, of numbers of two bytes
    return alone + passed * 2 * (rates.chips - 1) / rates.chips / rates.link


def _visible(window: int | None, work: Work) -> int:
    return work.context if window is None else min(work.context, window)
