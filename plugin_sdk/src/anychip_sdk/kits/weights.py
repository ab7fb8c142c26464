"""Reading the tensors of a WeightSpec, shared by the kits: shards, stacks and checks, in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from anychip_sdk.contract import ContractError, Reader, WeightSpec

Shapes = Mapping[str, tuple[int, ...]]


def shard(length: int, rank: int, size: int, what: str) -> slice:
    """This rank's part of an axis. Raises ContractError where it does not divide."""
    if length % size:
        raise ContractError(f"{what} has {length} entries, which {size} ranks do not divide; use a divisor of {length}")
    step = length // size
    return slice(rank * step, (rank + 1) * step)


def read_parts(spec: WeightSpec, read: Reader, shapes: Shapes, rank: int = 0, size: int = 1) -> Iterator[np.ndarray]:
    """Each part of the spec, sliced to this rank: "out" cuts the second axis from the end, "in" the last one.
    A part of several names is a stack [names, ...]. Raises ContractError where shapes disagree."""
    for names in spec.parts:
        missing = [name for name in names if name not in shapes]
        if missing:
            raise ContractError(f"the checkpoint has no tensor {missing[0]!r}")
        different = {shapes[name] for name in names}
        if len(different) != 1:
            raise ContractError(f"the tensors of one stack differ in shape: {sorted(different)} in {names[0]!r} ...")
        index = _index(spec, names[0], shapes[names[0]], rank, size)
        arrays = [read(name, index) for name in names]
        yield arrays[0] if len(arrays) == 1 and spec.kind != "experts" else np.stack(arrays)


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
