"""Weight handles, and the way from a checkpoint's arrays to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anychip_sdk.contract import ContractError, DType, Reader, WeightSpec
from anychip_sdk.contract.specs import WeightKind
from anychip_sdk.kits.weights import read_bias, read_parts

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weight:
    """`parts`, one array per output part: linear [O, I], experts [E, O, I], embedding [V, E], norm, vector and rope
    [N]. `bias`: [O] for each part, or none at all."""

    kind: WeightKind
    parts: tuple[np.ndarray, ...]
    bias: tuple[np.ndarray, ...] = ()

    def only(self, kind: WeightKind) -> np.ndarray:
        """The one part. Raises ContractError where the handle is of another kind."""
        if self.kind != kind:
            raise ContractError(f"this op takes a weight of kind {kind}, not {self.kind}; pack it as {kind}")
        return self.parts[0]


def pack(spec: WeightSpec, read: Reader, shapes: Shapes, dtype: DType) -> Weight:
    """See `Device.pack`. Norms, vectors and rope are in `dtype` too: it is float32 or better.

    Raises ContractError where a tensor is missing, or where shapes cannot make one handle."""
    if spec.const is not None:
        return Weight(spec.kind, (spec.const.astype(dtype),))
    _check(spec, shapes)
    parts = tuple(part.astype(dtype) for part in read_parts(spec, read, shapes))
    if spec.offset:
        parts = tuple(part + np.dtype(dtype).type(spec.offset) for part in parts)
    return Weight(spec.kind, parts, tuple(bias.astype(dtype) for bias in read_bias(spec, read, shapes)))


_RANK = {"linear": 2, "embedding": 2, "experts": 2, "norm": 1, "vector": 1, "rope": 1}
"""Axes of one tensor in the checkpoint."""


def _check(spec: WeightSpec, shapes: Shapes) -> None:
    if not spec.parts:
        raise ContractError(f"a weight of kind {spec.kind} names no tensor; give parts or const")
    if len(spec.parts) > 1 and spec.kind not in ("linear", "experts"):
        raise ContractError(f"a weight of kind {spec.kind} has {len(spec.parts)} parts; only linear and experts can")
    names = [name for part in spec.parts for name in part]
    for name in (*names, *spec.bias):
        if name not in shapes:
            raise ContractError(f"the checkpoint has no tensor {name!r}, which a weight of kind {spec.kind} needs")
    rank = _RANK[spec.kind]
    for name in names:
        if len(shapes[name]) != rank:
            raise ContractError(f"{name!r} has shape {list(shapes[name])}; kind {spec.kind} needs {rank} axes")
        if shapes[name][1:] != shapes[names[0]][1:]:
            raise ContractError(
                f"{names[0]!r} {list(shapes[names[0]])} and {name!r} {list(shapes[name])} cannot be parts of one "
                "weight: they must agree in all axes but the first"
            )
    if len({len(part) for part in spec.parts}) != 1:
        raise ContractError(f"the parts of one weight stack {[len(part) for part in spec.parts]} tensors; make it even")
    if spec.bias:
        _check_bias(spec, shapes)


def _check_bias(spec: WeightSpec, shapes: Shapes) -> None:
    if len(spec.bias) != len(spec.parts):
        raise ContractError(f"{len(spec.parts)} parts have {len(spec.bias)} biases; give one for each part, or none")
    for part, bias in zip(spec.parts, spec.bias, strict=True):
        if shapes[bias] != shapes[part[0]][:1]:
            raise ContractError(
                f"{bias!r} has shape {list(shapes[bias])}; the bias of {part[0]!r} {list(shapes[part[0]])} needs "
                f"[{shapes[part[0]][0]}]"
            )
