"""The ops that run on kernels of our own, in float32; other dtypes go the way of `CpuOps`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from anychip_sdk.contract import Activation, Communicator
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.kernel_attention import KernelAttention
from anychip_cpu.native import Kernels, advise
from anychip_cpu.onednn_ops import CpuOps


@dataclass
class PackedWeight(Weight):
    """`tensor`: [panels, inputs, width], see AnychipKernels. `outputs`: rows of the weight it was made of."""

    outputs: int = 0


class KernelOps(CpuOps):
    def __init__(self, communicator: Communicator, kernels: Kernels) -> None:
        super().__init__(communicator)
        self._kernels = kernels
        self.attention = KernelAttention(kernels)
        own = f"kernels of our own ({kernels.name.decode()}) in float32; else "
        self.adopted: Mapping[str, str] = {  # type: ignore[misc]  # of this processor, not of the class
            **CpuOps.adopted,
            **{name: own + CpuOps.adopted[name] for name in ("linear", "linear_split", "logits")},
        }

    def _pack(self, w: Weight, *, embedding: bool) -> Weight:
        """Of a linear weight or an embedding [O, I]."""
        if w.tensor.dtype != torch.float32:
            return super()._pack(w, embedding=embedding)
        outputs, inputs = w.tensor.shape
        width = self._kernels.width
        panels = torch.empty(-(-outputs // width), inputs, width)
        advise(panels.data_ptr(), panels.nbytes)
        weight = w.tensor.contiguous()
        self._kernels.pack_f32(weight.data_ptr(), outputs, inputs, panels.data_ptr(), torch.get_num_threads())
        return PackedWeight(**{**vars(w), "tensor": panels}, outputs=outputs)

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        if not isinstance(w, PackedWeight):
            return super()._matmul(x, w)
        x = x if x.stride(-1) == 1 else x.contiguous()
        y = x.new_empty(x.shape[0], w.outputs)
        bias = None if w.bias is None else w.bias.data_ptr()
        self._kernels.linear_f32(
            *(x.data_ptr(), x.stride(0), x.shape[0], w.tensor.data_ptr(), bias, w.outputs, x.shape[1]),
            *(y.data_ptr(), w.outputs, torch.get_num_threads()),
        )
        return y

    def embedding(self, ids: Tensor, w: Weight, scale: float = 1.0) -> Tensor:
        if not isinstance(w, PackedWeight):
            return super().embedding(ids, w, scale)
        panel, place = ids // w.tensor.shape[2], ids % w.tensor.shape[2]
        x = w.tensor[panel.long(), :, place.long()]  # [T, E]
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
