"""Weights of 8 or 4 bits, and products with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from anychip_sdk.contract import Activation, QuantFormat
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.launch import Launcher
from anychip_cpu.native import ACTIVATIONS, FEW, INPUT_GROUP, Kernels, LargestWork, LinearWork, PackWork, run
from anychip_cpu.packed import Groups, PackedWeight, reads
from anychip_cpu.weight_memory import WeightMemory

FORMATS = ("int8", "int8-g32", "int8-g64", "int8-g128", "int4", "int4-g32", "int4-g64", "int4-g128")
"""Of QUANT_FORMATS: those with kernels here."""
AT_ONCE = 1024
"""Panels of which a copy in float32 is made to pack them."""


@dataclass(kw_only=True)
class IntWeight(Weight):
    """`tensor`: bytes, `scales`: bfloat16 [panels, groups, width], as `pack_int` of AnychipKernels makes of a weight
    [outputs, inputs]. `group`: inputs of one scale, 0 for all of them."""

    scales: Tensor
    outputs: int
    inputs: int
    bits: int
    group: int


@dataclass(kw_only=True)
class TiedWeight(PackedWeight):
    """An embedding [V, E] that is the head too: the table as it was, and `head`, what logits are made with."""

    head: IntWeight


@dataclass(kw_only=True)
class IntExperts(IntWeight):
    """The same of every expert, one after another: `tensor` and `scales` have a first axis more."""


def quantize(w: Weight, format: QuantFormat, kernels: Kernels, memory: WeightMemory) -> IntWeight:
    """w: a linear weight [O, I] of any float dtype, with its bias."""
    outputs, inputs = w.tensor.shape
    bits, group = format.bits, format.group or 0
    panels, padded = -(-outputs // kernels.width), -(-inputs // 8) * 8
    packed = memory.empty((panels, padded * bits // 32, kernels.width, 4), torch.uint8)
    scales = memory.empty((panels, -(-inputs // group) if group else 1, kernels.width), torch.bfloat16)
    for first in range(0, panels, AT_ONCE):
        part = w.tensor[first * kernels.width : (first + AT_ONCE) * kernels.width].float().contiguous()
        pointers = (array.data_ptr() for array in (part, packed[first], scales[first]))
        run(kernels.pack_int, PackWork(*pointers, len(part), inputs, bits, group), torch.get_num_threads())
    kept = {**vars(w), "tensor": packed, "bias": None if w.bias is None else w.bias.float()}
    return IntWeight(**kept, scales=scales, outputs=outputs, inputs=inputs, bits=bits, group=group)


def quantize_experts(w: Weight, format: QuantFormat, kernels: Kernels, memory: WeightMemory) -> IntExperts:
    """w: a stack of experts [E, O, I]."""
    apart = WeightMemory()
    each = [quantize(Weight(expert, w.sizes), format, kernels, apart) for expert in w.tensor]
    kept = {**vars(each[0]), "bias": None, "summed": w.summed}
    return IntExperts(
        **{**kept, **{name: _stacked([vars(e)[name] for e in each], memory) for name in ("tensor", "scales")}}
    )


def _stacked(parts: list[Tensor], memory: WeightMemory) -> Tensor:
    stack = memory.empty((len(parts), *parts[0].shape), parts[0].dtype)
    return torch.stack(parts, out=stack)


def int_product(
    x: Tensor,
    w: IntWeight,
    kernels: Kernels,
    launch: Launcher,
    groups: Groups | None = None,
    gated: Activation | None = None,
    upper: Tensor | None = None,
) -> Tensor:
    """x: [T, I] -> [T, O] in x's dtype; gated: -> [T, O / 2], see `can_gate`. Inside, x becomes whole numbers of 8
    bits, and sums of groups are float32. upper: of AnychipLargest, for the largest of each row alone, without groups
    and gates."""
    x = launch.rows(x)
    rows, inputs = x.shape
    size = w.outputs if gated is None else w.outputs // 2
    y = launch.empty((rows, size), x.dtype, like=x if groups is None else None)
    scales = -(-inputs // (w.group or INPUT_GROUP))
    threads = torch.get_num_threads()
    room = max(rows, FEW * threads)
    scratch = launch.empty((room * (8 * scales + inputs + 128),), torch.uint8)
    live = launch.live(x) if groups is None else groups.live
    starts, count = (None, 0) if groups is None else (groups.starts, groups.count)
    work = LinearWork(
        *(x.data_ptr(), w.tensor.data_ptr(), w.scales.data_ptr(), None if w.bias is None else w.bias.data_ptr()),
        *(y.data_ptr(), scratch.data_ptr(), live, starts),
        *(x.stride(0), rows, w.outputs, inputs, size, w.bits, w.group, count, ACTIVATIONS[gated]),
    )
    if upper is None:
        launch.run(kernels.of("linear_int", x.dtype), work, reads(w.tensor, gated) if groups is None else None)
        return y
    known = launch.empty((threads, FEW))
    launch.run(kernels.largest_int, LargestWork(work, upper.data_ptr(), known.data_ptr()), reads(upper, None))
    return y
