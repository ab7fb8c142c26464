"""The ops that run on kernels of our own: products in float32, bfloat16 and whole numbers, the rest in float32. What is
left goes the way of `CpuOps`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from anychip_sdk.contract import QUANT_FORMATS, Activation, Batch, Communicator, MoESpec
from anychip_sdk.kits.torch import moe
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.kernel_attention import KernelAttention
from anychip_cpu.native import Kernels, advise
from anychip_cpu.onednn_ops import CpuOps
from anychip_cpu.quantized import IntExperts, IntWeight, TiedWeight, int_product, quantize, quantize_experts


@dataclass
class PackedWeight(Weight):
    """`tensor`: [panels, inputs, width], in bfloat16 [panels, ceil(inputs / 2), width, 2], see AnychipKernels.

    `outputs` and `inputs`: the shape of the weight it was made of."""

    outputs: int = 0
    inputs: int = 0


class KernelOps(CpuOps):
    def __init__(self, communicator: Communicator, kernels: Kernels) -> None:
        super().__init__(communicator)
        self._kernels = kernels
        self.attention = KernelAttention(kernels)
        own = f"kernels of our own ({kernels.name.decode()}) in float32, bfloat16, int8 and int4; else "
        self.adopted: Mapping[str, str] = {  # type: ignore[misc]  # of this processor, not of the class
            **CpuOps.adopted,
            **{name: own + CpuOps.adopted[name] for name in ("linear", "linear_split", "logits")},
        }

    def _pack(self, w: Weight, *, embedding: bool) -> Weight:
        """Of a linear weight or an embedding [O, I]."""
        if w.tensor.dtype not in (torch.float32, torch.bfloat16):
            return super()._pack(w, embedding=embedding)
        outputs, inputs = w.tensor.shape
        width = self._kernels.width
        halves = w.tensor.dtype == torch.bfloat16
        shape = (-(-inputs // 2), width, 2) if halves else (inputs, width)
        panels = w.tensor.new_empty(-(-outputs // width), *shape)
        advise(panels.data_ptr(), panels.nbytes)
        weight = w.tensor.contiguous()
        pack = self._kernels.pack_bf16 if halves else self._kernels.pack_f32
        pack(weight.data_ptr(), outputs, inputs, panels.data_ptr(), torch.get_num_threads())
        return PackedWeight(**{**vars(w), "tensor": panels}, outputs=outputs, inputs=inputs)

    def _quantize(self, w: Weight, name: str) -> IntWeight | IntExperts:
        """Of a linear weight [O, I] or experts [E, O, I], in one of `quantized.FORMATS`."""
        make = quantize if w.tensor.ndim == 2 else quantize_experts
        return make(w, QUANT_FORMATS[name], self._kernels)

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        if isinstance(w, IntWeight | TiedWeight):
            return int_product(x, w.head if isinstance(w, TiedWeight) else w, self._kernels)
        if not isinstance(w, PackedWeight):
            return super()._matmul(x, w)
        x = x if x.stride(-1) == 1 else x.contiguous()
        y = x.new_empty(x.shape[0], w.outputs)
        bias = None if w.bias is None else w.bias.data_ptr()
        multiply = self._kernels.linear_bf16 if x.dtype == torch.bfloat16 else self._kernels.linear_f32
        multiply(
            *(x.data_ptr(), x.stride(0), x.shape[0], w.tensor.data_ptr(), bias, w.outputs, x.shape[1]),
            *(y.data_ptr(), w.outputs, torch.get_num_threads()),
        )
        return y

    def moe(self, x: Tensor, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch) -> Tensor:
        if not isinstance(gate_up, IntExperts):
            return super().moe(x, router, gate_up, down, spec, batch)
        return moe.experts(x, self._matmul(x, router), gate_up, down, spec, self._int_expert)

    def _int_expert(self, x: Tensor, e: int, gate_up: IntExperts, down: IntExperts, spec: MoESpec) -> Tensor:
        gate, up = torch.split_with_sizes(self._matmul(x, gate_up.each[e]), gate_up.sizes, -1)
        return self._matmul(self.gated_activation(gate, up, spec.activation), down.each[e])

    def embedding(self, ids: Tensor, w: Weight, scale: float = 1.0) -> Tensor:
        if not isinstance(w, PackedWeight):
            return super().embedding(ids, w, scale)
        width = self._kernels.width
        panel, place = ids // width, ids % width
        x = w.tensor[panel.long(), :, place.long()].flatten(1)[:, : w.inputs]  # [T, E]
        return x if scale == 1.0 else x * scale

    def rms_norm(self, x: Tensor, w: Weight, eps: float) -> Tensor:
        if x.dtype != torch.float32 or x.ndim != 2:
            return super().rms_norm(x, w, eps)
        x = x if x.stride(1) == 1 else x.contiguous()
        y = x.new_empty(x.shape)
        rows, size = x.shape
        threads = torch.get_num_threads()
        self._kernels.rms_norm_f32(
            x.data_ptr(), x.stride(0), rows, size, w.tensor.data_ptr(), eps, y.data_ptr(), threads
        )
        return y

    def add_rms_norm(self, x: Tensor, residual: Tensor, w: Weight, eps: float) -> tuple[Tensor, Tensor]:
        if x.dtype != torch.float32:
            return super().add_rms_norm(x, residual, w, eps)
        x, residual = x.contiguous(), residual.contiguous()
        y, total = torch.empty_like(x), torch.empty_like(x)
        rows, size = x.shape
        self._kernels.add_rms_norm_f32(
            *(x.data_ptr(), residual.data_ptr(), rows, size, w.tensor.data_ptr(), eps),
            *(y.data_ptr(), total.data_ptr(), torch.get_num_threads()),
        )
        return y, total

    def gated_activation(self, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
        if gate.dtype != torch.float32:
            return super().gated_activation(gate, up, kind)
        gate, up = (t if t.stride(1) == 1 else t.contiguous() for t in (gate, up))
        rows, size = gate.shape
        y = gate.new_empty(rows, size)
        self._kernels.gated_f32(
            *(gate.data_ptr(), gate.stride(0), up.data_ptr(), up.stride(0), rows, size, kind == "gelu_tanh"),
            *(y.data_ptr(), torch.get_num_threads()),
        )
        return y
