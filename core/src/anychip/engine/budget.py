"""What a model needs of a device's memory, worked out before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
from anychip_sdk.contract import (
    QUANT_FORMATS,
    Capabilities,
    Device,
    DType,
    KVDType,
    KVLayout,
    KVSpec,
    Memory,
    NotSupported,
    OutOfMemory,
    StepPlugin,
    WeightSpec,
)

from anychip.engine.options import EngineOptions
from anychip.errors import CapacityError
from anychip.loading.checkpoint import Checkpoint
from anychip.loading.leftovers import has_own_head, name_unused
from anychip.models.quantize import formats, quantized
from anychip.models.registry import Family, family
from anychip.models.spec import ModelSpec
from anychip.sizes import gib

Kept = TypeVar("Kept", bound=KVDType)
Shapes = Mapping[str, tuple[int, ...]]
ITEM_BYTES: Final[Mapping[DType, int]] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Cache:
    """The KV cache that was settled on. Sizes in bytes, lengths in tokens."""

    size: int
    limit: int
    """what it might have taken: what was asked for, or a share of what is free; `size` is less where that is more than
    the most requests at their longest can use"""
    layout: KVLayout
    max_model_len: int
    concurrent: int
    """requests of max_model_len that fit at once"""


@dataclass(frozen=True)
class Budget:
    """All sizes in bytes, all lengths in tokens."""

    spec: ModelSpec
    dtype: DType
    memory: Memory
    step_tokens: int
    """token budget of one step"""
    weights: int
    embedding_item: int
    """one number of the embedding"""
    activations: int
    """estimated before the weights are loaded; measured after that where the device can"""
    cache: Cache
    tree: dict[str, Any]
    """WeightSpec of every weight, quantised where that was asked for"""
    shapes: Shapes
    """of every tensor"""

    @property
    def layout(self) -> KVLayout:
        return self.cache.layout

    @property
    def max_model_len(self) -> int:
        return self.cache.max_model_len

    @property
    def kv_bytes_per_token(self) -> int:
        return kv_bytes_per_token(self.layout)


def kv_bytes_per_token(layout: KVLayout) -> int:
    return sum(layout.page_bytes(g) for g in range(len(layout.pages))) // layout.page_size


def weight_specs(tree: Any) -> list[WeightSpec]:
    """The leaves of a weight tree, in order."""
    if isinstance(tree, WeightSpec):
        return [tree]
    children = tree.values() if isinstance(tree, dict) else tree
    return [spec for child in children for spec in weight_specs(child)]


def _number_bytes(w: WeightSpec, stored: Mapping[str, str], dtype: DType, claims: Capabilities) -> int:
    """Of each number of a weight where it is not quantised. stored: the dtype of each tensor of the checkpoint."""
    if w.kind not in ("linear", "embedding", "experts"):
        return 4
    kept = w.halves(stored.get) if claims.keeps_halves and dtype == "float32" else None
    return ITEM_BYTES[kept or dtype]


def _weight_bytes(tree: Any, shapes: Shapes, stored: Mapping[str, str], dtype: DType, claims: Capabilities) -> int:
    total = 0
    for w in weight_specs(tree):
        item = _number_bytes(w, stored, dtype, claims)
        parts = [shapes[n] for part in w.parts for n in part]
        if w.quantize is not None:
            total += sum(QUANT_FORMATS[w.quantize].nbytes(*shape) for shape in parts)
        numbers = sum(math.prod(shape) for shape in parts)
        if w.quantize is None or w.kind == "embedding":  # its table stays beside the head
            total += item * numbers
        if w.head and dtype == "float32":
            total += claims.screens_heads.get(w.quantize or dtype, 0) * numbers // 8
        total += ITEM_BYTES[dtype] * sum(math.prod(shapes[n]) for n in w.bias)
    return total


def _weight_tree(kind: Family, spec: ModelSpec, device: Device | StepPlugin, quantize: str | None) -> dict[str, Any]:
    """Raises CapacityError, naming what the device has, for weights that it cannot quantise."""
    tree = kind.weights(spec)
    if quantize is None:
        return tree
    name, known = device.info.name, device.capabilities.quantize
    for needed in formats(tree, quantize):
        if needed not in known:
            has = f"it has {', '.join(known)}: choose one of these" if known else "it has none: leave quantize out"
            raise CapacityError(f"{name} cannot keep weights in {needed}; {has}")
    return quantized(tree, quantize)


def _shapes(checkpoint: Checkpoint, kind: Family, spec: ModelSpec) -> Shapes:
    """What config.json says, which the checkpoint's tensors must have where they are there. Raises ModelError."""
    shapes = kind.shapes_of(spec)
    if checkpoint.has_weights:
        kind.check(spec, checkpoint.shapes)
        name_unused(checkpoint, shapes)
    return shapes


def resolve_dtype(asked: str, available: tuple[Kept, ...], what: str, device: str) -> Kept:
    """`auto` is the device's own preference. Raises CapacityError for one it has not."""
    if asked == "auto":
        return available[0]
    for dtype in available:
        if dtype == asked:
            return dtype
    raise CapacityError(f"{device} has no {what} {asked}; it has {', '.join(available)}: choose one of these, or auto")


def make_budget(checkpoint: Checkpoint, device: Device | StepPlugin, options: EngineOptions) -> Budget:
    """Raises ModelError for a checkpoint that does not fit its config, CapacityError for one that does not fit the
    device, saying what would."""
    kind = family(checkpoint.config)
    spec = kind.from_config(checkpoint.config)
    if spec.tied and has_own_head(checkpoint):
        spec = replace(spec, tied=False)
    shapes = _shapes(checkpoint, kind, spec)
    name, claims = device.info.name, device.capabilities
    dtype = resolve_dtype(options.dtype, claims.weight_dtypes, "weights in", name)
    kv_dtype = resolve_dtype(dtype if options.kv_dtype == "auto" else options.kv_dtype, claims.kv_dtypes, "KV in", name)
    _check_claims(spec, device)
    memory = device.allocator.memory() if isinstance(device, Device) else device.memory()
    tree = _weight_tree(kind, spec, device, options.quantize)
    stored = {tensor: info.dtype for tensor, info in checkpoint.tensors.items()}

    def weigh(dtype: DType) -> int:
        return _weight_bytes(tree, shapes, stored, dtype, claims)

    weights = weigh(dtype)
    # One token at least for every request that decodes, or some would wait for others to end.
    step_tokens = options.max_num_batched_tokens or max(claims.step_tokens, options.max_num_seqs)
    activations = _activation_bytes(spec, dtype, step_tokens, options.max_num_seqs)
    free = memory.free - weights - activations
    if free <= 0:
        raise CapacityError(
            f"{checkpoint.name} needs {gib(weights)} for weights and {gib(activations)} for activations, {name} has "
            f"{gib(memory.free)} free: free {gib(-free)}, or use "
            + _smaller(
                [d for d in claims.weight_dtypes if weigh(d) < weights], claims, weights, activations, options.quantize
            )
        )
    longest = spec.max_len if options.max_model_len is None else options.max_model_len
    if longest > spec.max_len:
        raise CapacityError(
            f"max_model_len is {longest}, but {checkpoint.name} was made for {spec.max_len} tokens; "
            f"ask for at most {spec.max_len}"
        )
    cache = _cache(device, KVSpec(spec.groups, kv_dtype), options, free, longest)
    number = _number_bytes(tree["embed"], stored, dtype, claims)
    return Budget(spec, dtype, memory, step_tokens, weights, number, activations, cache, tree, shapes)


def fitted(budget: Budget, device: Device, options: EngineOptions, activations: int) -> Budget:
    """The budget once the weights are loaded, whose KV cache takes its share of what the device then has free beside
    activations as large as were measured. Raises CapacityError where that is too little."""
    free = device.allocator.memory().free - activations
    if free <= 0:
        raise CapacityError(
            f"a step of {budget.step_tokens} tokens takes {gib(activations)} beside the weights, {device.info.name} "
            f"has {gib(free + activations)} left: use smaller steps (max_num_batched_tokens, max_num_seqs)"
        )
    longest = budget.spec.max_len if options.max_model_len is None else options.max_model_len
    cache = _cache(device, budget.layout.spec, options, free, longest)
    return replace(budget, activations=activations, cache=cache)


def _cache(device: Device | StepPlugin, spec: KVSpec, options: EngineOptions, free: int, longest: int) -> Cache:
    """free: bytes beside weights and activations; longest: the longest sequence that is wanted."""
    kv_bytes = options.kv_cache_memory or int(free * options.memory_fraction)
    given = ("kv_cache_memory", "memory_fraction") if options.kv_pages is None else ("kv_pages",)
    if options.kv_pages is None:
        _check_room(device, kv_bytes, free, given)
    layout = _layout(device, spec, options, kv_bytes, longest)
    fits = _tokens(layout)
    if fits < longest and options.max_model_len is not None:
        a_token = kv_bytes_per_token(layout)
        left_out = options.kv_pages is None and kv_bytes - layout.nbytes > 2 * layout.page_size * a_token
        more = f"; {device.info.name} keeps no more"
        if not left_out:
            more = f", or give the KV cache more ({', '.join(given)})"
        raise CapacityError(
            f"a context of {longest} tokens needs {gib(a_token * longest)} of KV cache, {gib(layout.nbytes)} hold "
            f"{fits}: ask for max_model_len {fits} or less{more}"
        )
    longest = min(longest, fits)
    _check_room(device, layout.nbytes, free, given)
    limit = layout.nbytes if options.kv_pages is not None else kv_bytes
    return Cache(layout.nbytes, limit, layout, longest, max(1, fits // longest) if longest else 0)


def _check_room(device: Device | StepPlugin, asked: int, free: int, given: Sequence[str]) -> None:
    """given: the options that decide on the cache's size."""
    if asked > free:
        raise CapacityError(
            f"a KV cache of {gib(asked)} was asked for, but beside weights and activations {device.info.name} has "
            f"{gib(free)}: ask for less ({given[0]}), or leave it to memory_fraction"
        )


def _smaller(
    dtypes: Sequence[DType], claims: Capabilities, weights: int, activations: int, quantize: str | None
) -> str:
    """What would make a model fit. dtypes: those in which its weights take less."""
    if activations > weights:
        return "smaller steps (max_num_batched_tokens, max_num_seqs)"
    halves = [f"dtype {d}" for d in dtypes[:1]]
    whole = [f"quantize {name}" for name in claims.quantize[:1] if quantize is None]
    return ", or ".join(["a smaller model", *halves, *whole])


def _check_claims(spec: ModelSpec, device: Device | StepPlugin) -> None:
    claims, name = device.capabilities, device.info.name
    lacks = []
    for attention in {layer.attention for layer in spec.layers}:
        if attention.window is not None and not claims.sliding_window:
            lacks.append("sliding windows")
        if attention.softcap is not None and not claims.softcap:
            lacks.append("softcap")
        if attention.head_dim > claims.max_head_dim:
            lacks.append(f"head_dim {attention.head_dim}")
    if spec.moe is not None and not claims.moe:
        lacks.append("mixture of experts")
    if lacks:
        raise CapacityError(f"{spec.architecture} needs {', '.join(sorted(set(lacks)))}, which {name} does not have")


def _activation_bytes(spec: ModelSpec, dtype: DType, step_tokens: int, max_num_seqs: int) -> int:
    """A generous estimate of the largest step: a few copies of the widest row, and logits in float32 three times."""
    width = 4 * spec.hidden_size + 3 * spec.intermediate_size
    rows = min(max_num_seqs, step_tokens)
    return step_tokens * width * ITEM_BYTES[dtype] + 3 * rows * spec.vocab_size * 4


def _layout(device: Device | StepPlugin, spec: KVSpec, options: EngineOptions, budget: int, max_len: int) -> KVLayout:
    slots = options.max_num_seqs + 1
    make = device.allocator.layout if isinstance(device, Device) else device.layout
    try:
        layout = make(spec, budget=budget, page_size=options.page_size, max_len=max_len, slots=slots)
    except OutOfMemory as error:
        raise CapacityError(f"the KV cache does not fit into {gib(budget)}: {error} (kv_cache_memory)") from error
    except NotSupported as error:
        raise CapacityError(f"{device.info.name} cannot keep this KV cache: {error}") from error
    if options.kv_pages is None:
        return layout
    return replace(layout, pages=(options.kv_pages,) * len(spec.groups))


def _tokens(layout: KVLayout) -> int:
    """Tokens one sequence can hold alone: windowed groups limit it only if they cannot hold their window."""
    size = layout.page_size
    tokens = [
        (pages - 1) * size
        for pages, group in zip(layout.pages, layout.spec.groups, strict=True)
        if group.window is None or pages - 1 < -(-group.window // size) + 2
    ]
    return min(tokens, default=int(np.iinfo(np.int32).max))
