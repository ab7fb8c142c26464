"""Weights of 8 or 4 bits, and products with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from anychip_sdk.contract import QuantFormat
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.native import INPUT_GROUP, Kernels, advise

FORMATS = ("int8", "int8-g32", "int8-g64", "int8-g128", "int4", "int4-g32", "int4-g64", "int4-g128")
"""Of QUANT_FORMATS: those with kernels here."""


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
class TiedWeight(Weight):
    """An embedding [V, E] that is the head too: `tensor` is the table as it was, `head` what logits are made with."""

    head: IntWeight


@dataclass(kw_only=True)
class IntExperts(Weight):
    """`tensor` is empty: each expert [O, I] is a weight of its own."""

    each: tuple[IntWeight, ...]


def quantize(w: Weight, format: QuantFormat, kernels: Kernels) -> IntWeight:
    """w: a linear weight [O, I] of any float dtype, with its bias."""
    outputs, inputs = w.tensor.shape
    bits, group = format.bits, format.group or 0
    panels, padded = -(-outputs // kernels.width), -(-inputs // 8) * 8
    packed = torch.empty(panels, padded * bits // 32, kernels.width, 4, dtype=torch.uint8)
    scales = torch.empty(panels, -(-inputs // group) if group else 1, kernels.width, dtype=torch.bfloat16)
    advise(packed.data_ptr(), packed.nbytes)
    weight = w.tensor.float().contiguous()
    kernels.pack_int(
        *(weight.data_ptr(), outputs, inputs, bits, group, packed.data_ptr(), scales.data_ptr()),
        torch.get_num_threads(),
    )
    kept = {**vars(w), "tensor": packed, "bias": None if w.bias is None else w.bias.float()}
    return IntWeight(**kept, scales=scales, outputs=outputs, inputs=inputs, bits=bits, group=group)


def quantize_experts(w: Weight, format: QuantFormat, kernels: Kernels) -> IntExperts:
    """w: a stack of experts [E, O, I]."""
    each = tuple(quantize(Weight(expert, w.sizes), format, kernels) for expert in w.tensor)
    return IntExperts(**{**vars(w), "tensor": w.tensor.new_empty(0)}, each=each)


def int_product(x: Tensor, w: IntWeight, kernels: Kernels) -> Tensor:
    """x: [T, I] -> [T, O] in x's dtype. Inside, x becomes whole numbers of 8 bits, and sums of groups are float32."""
    dtype, (rows, inputs) = x.dtype, x.shape
    x = x.float()
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty(rows, w.outputs)
    groups = -(-inputs // (w.group or INPUT_GROUP))
    scratch = torch.empty(rows * (8 * groups + inputs + 128), dtype=torch.uint8)
    kernels.linear_int(
        *(x.data_ptr(), x.stride(0), rows, w.tensor.data_ptr(), w.scales.data_ptr()),
        *(None if w.bias is None else w.bias.data_ptr(), w.outputs, inputs, w.bits, w.group),
        *(y.data_ptr(), w.outputs, scratch.data_ptr(), torch.get_num_threads()),
    )
    return y.to(dtype)
