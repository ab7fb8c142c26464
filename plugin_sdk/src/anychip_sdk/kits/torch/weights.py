"""Weight handles, and the way from a checkpoint's arrays to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anychip_sdk.contract import DType, Reader, WeightSpec
from anychip_sdk.kits.weights import read_bias, read_parts

TORCH_DTYPES: Mapping[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


@dataclass
class Weight:
    """linear [O, I], embedding [V, E], experts [E, O, I], norm and vector and rope [N] (float32). `sizes`: rows of
    each part on this rank. `summed`: tp="in", so that products are partial sums over ranks. `rows`: of the whole
    weight before sharding and padding."""

    tensor: Tensor
    sizes: tuple[int, ...] = ()
    bias: Tensor | None = None
    summed: bool = False
    rows: int = 0


def to_torch(array: np.ndarray) -> Tensor:
    """Without a copy where that is safe; bfloat16 through its bits, which torch's bridge does not know."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def pack(
    spec: WeightSpec,
    read: Reader,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: DType,
    device: torch.device,
    rank: int,
    size: int,
) -> Weight:
    """See `Device.pack`. Norms, rope and vectors stay float32: they are small, and their ops compute in it."""
    if spec.const is not None:
        return Weight(torch.from_numpy(spec.const.astype(np.float32)).to(device))
    small = spec.kind in ("norm", "vector", "rope")
    kind = torch.float32 if small else TORCH_DTYPES[dtype]
    rows = sum(shapes[names[0]][0] for names in spec.parts)
    spec, padding = _pad_vocabulary(spec, shapes, size)
    parts = [to_torch(a).to(device, kind) for a in read_parts(spec, read, shapes, rank, 1 if padding else size)]
    sizes = tuple(p.shape[-2] if p.ndim > 1 else p.shape[0] for p in parts)
    tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2 if parts[0].ndim > 1 else 0)
    if padding:
        step = (rows + padding) // size
        tensor = torch.nn.functional.pad(tensor, (0, 0, 0, padding))[rank * step : (rank + 1) * step].contiguous()
        sizes = (step,)
    if spec.offset:
        tensor = tensor + spec.offset
    biases = [to_torch(b).to(device, kind) for b in read_bias(spec, read, shapes, rank, size)]
    bias = torch.cat(biases) if biases else None
    return Weight(tensor, sizes, bias, spec.tp == "in" and size > 1, rows)


def _pad_vocabulary(spec: WeightSpec, shapes: Mapping[str, tuple[int, ...]], size: int) -> tuple[WeightSpec, int]:
    """Rows of zeros that make the one part of an unfused "out" weight (the head) divisible by the ranks."""
    if size == 1 or spec.tp != "out" or len(spec.parts) != 1 or spec.kind != "linear":
        return spec, 0
    return spec, -shapes[spec.parts[0][0]][0] % size
