"""Weight handles, and the way from a checkpoint's arrays to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from anychip_sdk.contract import DType, KVDType, Reader, WeightSpec
from anychip_sdk.kits.weights import check, read_bias, read_stacks

Shapes = Mapping[str, tuple[int, ...]]

TORCH_DTYPES: Mapping[KVDType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass
class Weight:
    """linear [O, I], embedding [V, E], experts [E, O, I], norm and vector and rope [N] (float32). `sizes`: outputs of
    each part on this rank. `summed`: tp="in", so that products are partial sums over ranks. `vocabulary`: rows of the
    whole weight where this is one rank's shard of a head, `padded` where zeros were added to make shards equal."""

    tensor: Tensor
    sizes: tuple[int, ...] = ()
    bias: Tensor | None = None
    summed: bool = False
    vocabulary: int | None = None
    padded: bool = False


Join = Callable[[Sequence[np.ndarray], torch.dtype, torch.device], Tensor]
"""Makes one tensor on a device of arrays that follow one another along the first axis."""


def to_torch(array: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy; bfloat16 goes through its bits, which torch's bridge to numpy does not know."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16).to(device, dtype)
    return torch.from_numpy(np.array(array)).to(device, dtype)


def join(arrays: Sequence[np.ndarray], dtype: torch.dtype, device: torch.device) -> Tensor:
    """See `Join`."""
    parts = [to_torch(array, device, dtype) for array in arrays]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def pack(
    spec: WeightSpec,
    read: Reader,
    shapes: Shapes,
    dtype: DType,
    device: torch.device,
    rank: int,
    size: int,
    join: Join = join,
) -> Weight:
    """See `Device.pack`. Norms, rope and vectors stay float32: they are small, and their ops compute in it.

    Raises ContractError where a tensor is missing, or where shapes make no weight or do not divide by the ranks."""
    if spec.const is not None:
        return Weight(to_torch(spec.const, device, torch.float32))
    kind = torch.float32 if spec.kind in ("norm", "vector", "rope") else TORCH_DTYPES[dtype]
    check(spec, shapes)
    if size > 1 and spec.kind == "linear" and spec.tp == "out" and len(spec.parts) == 1:
        return _pack_head(spec, read, shapes, kind, device, rank, size, join)
    stacks = list(read_stacks(spec, read, shapes, rank, size))
    sizes = tuple(len(arrays[0]) for arrays in stacks)
    tensor = join([array for place in zip(*stacks, strict=True) for array in place], kind, device)
    if spec.kind == "experts" or len(stacks[0]) > 1:
        tensor = tensor.view(len(stacks[0]), sum(sizes), *tensor.shape[1:])
    if spec.offset:
        tensor += spec.offset
    biases = list(read_bias(spec, read, shapes, rank, size))
    return Weight(tensor, sizes, join(biases, kind, device) if biases else None, spec.tp == "in" and size > 1)


def _pack_head(
    spec: WeightSpec,
    read: Reader,
    shapes: Shapes,
    kind: torch.dtype,
    device: torch.device,
    rank: int,
    size: int,
    join: Join,
) -> Weight:
    """A single "out" part may be the head, whose vocabulary need not divide: the last ranks get rows of zeros."""
    rows = shapes[spec.parts[0][0]][0]
    step = -(-rows // size)
    start, end = min(rank * step, rows), min((rank + 1) * step, rows)

    def part(name: str) -> Tensor:
        shape = shapes[name]
        if start == end:
            return torch.zeros(step, *shape[1:], dtype=kind, device=device)
        tensor = join([read(name, (slice(start, end),))], kind, device)
        return pad(tensor, (0, 0) * (len(shape) - 1) + (0, step - (end - start)))

    tensor, bias = part(spec.parts[0][0]), part(spec.bias[0]) if spec.bias else None
    return Weight(tensor, (step,), bias, vocabulary=rows, padded=step * size != rows)
