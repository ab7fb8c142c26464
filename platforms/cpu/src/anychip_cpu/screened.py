"""Heads with a copy in fewer bits beside them: where only the largest logit of a row is wanted, that says which ones
can be it, and these alone are computed exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from anychip_sdk.contract import QUANT_FORMATS
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.launch import Launcher
from anychip_cpu.native import Kernels, ScreenWork
from anychip_cpu.packed import PackedWeight
from anychip_cpu.quantized import IntWeight, int_product, quantize
from anychip_cpu.weight_memory import WeightMemory

SURE = 1.001
"""What norms are multiplied by, as they are rounded."""
SMALL = 1e-10
"""Squares of numbers that matter beside a norm of less may be zero."""
AT_ONCE = 64
"""Panels."""
UNIT = 16
"""Inputs that lie together in `ScreenedIntWeight.upper`."""
WIDE = 16
"""Outputs of a panel, from which on few rows of a head in 8 bits wait for the memory rather than for their sums: with
vectors of 32 bytes, as every x86 processor since AVX2 has them."""


def screens_heads(kernels: Kernels) -> dict[str, int]:
    """What the device declares, see `Capabilities`."""
    return {"float32": 8, "int8": 6} if kernels.width >= WIDE else {"float32": 8}


@dataclass(kw_only=True)
class ScreenedWeight(PackedWeight):
    """A head [V, E] with `rough`, the same in 8 bits, and `bounds` of it [panels, 2], as AnychipScreen has them."""

    rough: IntWeight
    bounds: Tensor


def screened(w: Weight, packed: PackedWeight, kernels: Kernels, memory: WeightMemory) -> ScreenedWeight:
    """w: [V, E] of any float dtype, without a bias; packed: the same."""
    rough = quantize(w, QUANT_FORMATS["int8"], kernels, memory)
    return ScreenedWeight(**vars(packed), rough=rough, bounds=_bounds(w.tensor, rough, memory))


@dataclass(kw_only=True)
class ScreenedIntWeight(IntWeight):
    """A head in 8 bits and the upper six of each: `upper`, as AnychipLargest has them."""

    upper: Tensor


def screened_int(w: IntWeight, memory: WeightMemory) -> IntWeight:
    """As a ScreenedIntWeight, where there can be one: in 8 bits with one scale for an output, and no bias."""
    if w.bits != 8 or w.group or w.inputs % UNIT or w.bias is not None:
        return w
    panels, _, width, _ = w.tensor.shape
    upper = memory.empty((panels, w.inputs // UNIT, 3, width, 4), torch.uint8)
    for first in range(0, panels, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        fours = (w.tensor[part] >> 2).unflatten(1, (-1, 4)).unbind(2)  # 4 of [P, I / 16, width, 4]
        upper[part, :, 0] = fours[0] & 15 | fours[1] << 4
        upper[part, :, 1] = fours[2] & 15 | fours[3] << 4
        upper[part, :, 2] = fours[0] >> 4 | fours[1] >> 4 << 2 | fours[2] >> 4 << 4 | fours[3] >> 4 << 6
    return ScreenedIntWeight(**vars(w), upper=upper)


def _bounds(weight: Tensor, rough: IntWeight, memory: WeightMemory) -> Tensor:
    """-> [panels, 2]: the largest |w - w'|, and the largest of |w| and |w'|, of an output's weights w and what they
    are in `rough`, w'. Infinite where they are too small to tell."""
    panels, _, width, _ = rough.tensor.shape
    bounds = memory.empty((panels, 2), torch.float32)
    for first in range(0, panels, AT_ONCE):
        numbers = rough.tensor[first : first + AT_ONCE]  # [P, I / 4, width, 4]
        kept = (numbers.float() - 128) * rough.scales[first : first + AT_ONCE].float()[..., None]
        kept = kept.permute(0, 2, 1, 3).reshape(len(numbers) * width, -1)[:, : rough.inputs]  # [P * width, I]
        exact = torch.zeros_like(kept)
        part = weight[first * width : (first + AT_ONCE) * width]
        exact[: len(part)] = part
        norms = ((exact - kept).norm(dim=1), torch.maximum(exact.norm(dim=1), kept.norm(dim=1)))
        for place, norm in enumerate(norms):
            bounds[first : first + AT_ONCE, place] = SURE * norm.view(-1, width).amax(1)
    return bounds.masked_fill_(bounds[:, 1:] < SMALL, torch.inf)


def largest(x: Tensor, w: ScreenedWeight, kernels: Kernels, launch: Launcher) -> Tensor:
    """x: [R, E] float32 -> [R, V] float32, see `Ops.greedy_logits`."""
    x = launch.rows(x)
    y = int_product(x, w.rough, kernels, launch)
    rows, inputs = x.shape
    scratch = launch.empty((rows, 3))
    pointers = (array.data_ptr() for array in (x, w.tensor, w.bounds, y, scratch))
    work = ScreenWork(*pointers, launch.live(x), x.stride(0), rows, w.outputs, inputs)
    launch.run(kernels.of("screen", torch.float32, w.tensor.dtype), work)
    return y
