"""A checkpoint's weights as a device's handles: packed, or mapped as an earlier start packed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from anychip_sdk.contract import (
    ContractError,
    Device,
    DeviceError,
    NotSupported,
    OutOfMemory,
    Reader,
    StepPlugin,
    WeightSpec,
)

from anychip.engine.budget import Budget, weight_specs
from anychip.errors import CapacityError, PlatformError
from anychip.loading.checkpoint import Checkpoint
from anychip.loading.weight_cache import LEAST, WeightCache
from anychip.progress import Progress


def load_weights(
    checkpoint: Checkpoint, device: Device, budget: Budget, *, progress: bool, cached: bool
) -> dict[str, Any]:
    """The device's handles of all weights, its layers as it wants them. cached: look for them on disk, and keep them
    there. Raises AnychipError."""
    with faults_named(checkpoint, device):
        for attention in {layer.attention for layer in budget.spec.layers}:
            device.ops.attention.supports(attention)
        form = device.stored_form(budget.dtype) if cached and budget.weights >= LEAST else None
        specs = weight_specs(budget.tree)
        cache = None if form is None else WeightCache.find(checkpoint, specs, budget.dtype, form)
        if cache is None:
            with _reading(checkpoint, specs, progress) as read:
                tree = {name: part for name, part in budget.tree.items() if name != "layers"}
                weights: dict[str, Any] = _tree(tree, lambda spec: device.pack(spec, read, budget.shapes, budget.dtype))
                layers = device.pack_layers(
                    budget.spec.layers, budget.tree["layers"], read, budget.shapes, budget.dtype
                )
            return {**weights, "layers": layers}
        handles = _restored(device, cache, len(specs)) or _packed(checkpoint, device, budget, cache, progress)
        each = iter(handles)
        weights = _tree(budget.tree, lambda _: next(each))
        return {**weights, "layers": device.stack(budget.spec.layers, weights["layers"])}


@contextmanager
def faults_named(checkpoint: Checkpoint, device: Device | StepPlugin) -> Iterator[None]:
    """A device's refusals and faults as AnychipErrors that name it and the model."""
    try:
        yield
    except NotSupported as error:
        raise CapacityError(f"{device.info.name} cannot run {checkpoint.name}: {error}") from error
    except OutOfMemory as error:
        raise CapacityError(f"{device.info.name} ran out of memory loading {checkpoint.name}: {error}") from error
    except DeviceError as error:
        raise PlatformError(
            f"{device.info.name} failed loading {checkpoint.name}: {error}; see anychip devices -v"
        ) from error


def _restored(device: Device, cache: WeightCache, count: int) -> list[Any] | None:
    stored = cache.load(count)
    if stored is None:
        return None
    try:
        return [device.restore(weight) for weight in stored]
    except ContractError as error:
        cache.refuse(str(error))
        return None


def _packed(checkpoint: Checkpoint, device: Device, budget: Budget, cache: WeightCache, progress: bool) -> list[Any]:
    """In the order of `weight_specs`, and kept."""
    specs, handles = weight_specs(budget.tree), []
    with _reading(checkpoint, specs, progress) as read, cache.writing(budget.weights) as shelf:
        for spec in specs:
            handles.append(device.pack(spec, read, budget.shapes, budget.dtype))
            if shelf.taking:
                shelf.add(device.store(handles[-1]))
    return handles


@contextmanager
def _reading(checkpoint: Checkpoint, specs: Sequence[WeightSpec], progress: bool) -> Iterator[Reader]:
    """The checkpoint's reader, with a bar that moves as each tensor is read for the first time."""
    names = {name for spec in specs for part in (*spec.parts, spec.bias) for name in part}
    with Progress("loading weights", len(names), shown=progress) as bar:

        def read(name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
            if name in names:
                names.remove(name)
                bar.advance()
            return checkpoint.read(name, index)

        yield read


def _tree(tree: Any, leaf: Callable[[WeightSpec], Any]) -> Any:
    """`tree` with what `leaf` gives for every WeightSpec, asked in the order of `weight_specs`."""
    if isinstance(tree, WeightSpec):
        return leaf(tree)
    if isinstance(tree, dict):
        return {key: _tree(child, leaf) for key, child in tree.items()}
    return [_tree(child, leaf) for child in tree]
