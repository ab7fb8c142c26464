"""Reading the tensors of a WeightSpec, shared by the kits: checks, shards and stacks, in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from anychip_sdk.contract import ContractError, NotSupported, Reader, WeightSpec

Shapes = Mapping[str, tuple[int, ...]]

_RANK = {"linear": 2, "embedding": 2, "experts": 2, "norm": 1, "vector": 1, "rope": 1}
"""Axes of one tensor in the checkpoint."""


def check(spec: WeightSpec, shapes: Shapes) -> None:
    """Raises ContractError where a tensor is missing, or where shapes cannot make one handle, and NotSupported for a
    quantised one: the kits have none."""
    if spec.quantize is not None:
        raise NotSupported(f"the kit has no weights in {spec.quantize}; leave quantize out")
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


def shard(length: int, rank: int, size: int, what: str) -> slice:
    """This rank's part of an axis. Raises ContractError where it does not divide."""
    if length % size:
        raise ContractError(f"{what} has {length} entries, which {size} ranks do not divide; use a divisor of {length}")
    step = length // size
    return slice(rank * step, (rank + 1) * step)


def read_stacks(
    spec: WeightSpec, read: Reader, shapes: Shapes, rank: int = 0, size: int = 1
) -> Iterator[list[np.ndarray]]:
    """The tensors of each part of the spec, sliced to this rank: "out" cuts the second axis from the end, "in" the
    last one. Raises ContractError where shapes disagree."""
    for names in spec.parts:
        different = {shapes[name] for name in names}
        if len(different) != 1:
            raise ContractError(f"the tensors of one stack differ in shape: {sorted(different)} in {names[0]!r} ...")
        index = _index(spec, names[0], shapes[names[0]], rank, size)
        yield [read(name, index) for name in names]


def read_parts(spec: WeightSpec, read: Reader, shapes: Shapes, rank: int = 0, size: int = 1) -> Iterator[np.ndarray]:
    """As `read_stacks`, each part as one array: one of several names, and one of experts, is a stack [names, ...],
    float32 where its tensors differ in dtype."""
    for arrays in read_stacks(spec, read, shapes, rank, size):
        yield arrays[0] if len(arrays) == 1 and spec.kind != "experts" else _stack(arrays)


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    if len({a.dtype for a in arrays}) > 1:  # numpy promotes no bfloat16 and float16
        arrays = [a.astype(np.float32) for a in arrays]
    return np.stack(arrays)


def read_bias(spec: WeightSpec, read: Reader, shapes: Shapes, rank: int = 0, size: int = 1) -> Iterator[np.ndarray]:
    """The bias of each part. With tp="in" only rank 0 has it: the ranks' results are summed."""
    for name in spec.bias:
        if spec.tp == "out":
            yield read(name, (shard(shapes[name][0], rank, size, name),))
        elif spec.tp is None or rank == 0:
            yield read(name)


def _index(spec: WeightSpec, name: str, shape: tuple[int, ...], rank: int, size: int) -> tuple[slice, ...]:
    if size == 1 or spec.tp is None:
        return ()
    if spec.tp == "out":
        return (shard(shape[0], rank, size, name),)
    return (slice(0, shape[0]), shard(shape[1], rank, size, name))
