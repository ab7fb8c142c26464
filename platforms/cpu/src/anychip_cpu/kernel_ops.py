"""The ops that run on kernels of our own: products in float32, bfloat16 and whole numbers, the rest in float32. What is
left goes the way of `CpuOps`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from anychip_sdk.contract import QUANT_FORMATS, Activation, Batch, Communicator, MoESpec, Sampled, SampleKind
from anychip_sdk.kits.torch import moe
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.kernel_attention import KernelAttention
from anychip_cpu.launch import Launcher
from anychip_cpu.native import (
    GatedWork,
    GatherWork,
    GreedyWork,
    Kernels,
    LinearWork,
    NormWork,
    PackWork,
    RopeWork,
    advise,
    run,
)
from anychip_cpu.onednn_ops import CpuOps
from anychip_cpu.quantized import IntExperts, IntWeight, TiedWeight, int_product, quantize, quantize_experts


@dataclass
class PackedWeight(Weight):
    """`tensor`: [panels, inputs, width], in bfloat16 [panels, ceil(inputs / 2), width, 2], see AnychipKernels.

    `outputs` and `inputs`: the shape of the weight it was made of."""

    outputs: int = 0
    inputs: int = 0


class KernelOps(CpuOps):
    def __init__(self, communicator: Communicator, kernels: Kernels, launch: Launcher) -> None:
        super().__init__(communicator)
        self._kernels, self._launch = kernels, launch
        self.attention = KernelAttention(kernels, launch)
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
        work = PackWork(weight.data_ptr(), panels.data_ptr(), None, outputs, inputs, 0, 0)
        run(self._kernels.pack_bf16 if halves else self._kernels.pack_f32, work, torch.get_num_threads())
        return PackedWeight(**{**vars(w), "tensor": panels}, outputs=outputs, inputs=inputs)

    def _quantize(self, w: Weight, name: str) -> IntWeight | IntExperts:
        """Of a linear weight [O, I] or experts [E, O, I], in one of `quantized.FORMATS`."""
        make = quantize if w.tensor.ndim == 2 else quantize_experts
        return make(w, QUANT_FORMATS[name], self._kernels)

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        if isinstance(w, IntWeight | TiedWeight):
            return int_product(x, w.head if isinstance(w, TiedWeight) else w, self._kernels, self._launch)
        if not isinstance(w, PackedWeight):
            return self._launch.kit(super()._matmul, x, w)
        x = self._launch.rows(x)
        rows, inputs = x.shape
        y = self._launch.empty((rows, w.outputs), x.dtype, like=x)
        bias = None if w.bias is None else w.bias.data_ptr()
        work = LinearWork(
            *(x.data_ptr(), w.tensor.data_ptr(), None, bias, y.data_ptr(), None, self._launch.live(x)),
            *(x.stride(0), rows, w.outputs, inputs, w.outputs, 0, 0),
        )
        half = x.dtype == torch.bfloat16
        self._launch.run(self._kernels.linear_bf16 if half else self._kernels.linear_f32, work)
        return y

    def logits(self, x: Tensor, w: Weight, softcap: float | None = None) -> Tensor:
        y = self._matmul(x, w)
        if y.dtype != torch.float32:
            y = self._launch.kit(Tensor.float, y)
        return y if softcap is None else self._launch.kit(_capped, y, softcap)

    def moe(self, x: Tensor, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch) -> Tensor:
        if not isinstance(gate_up, IntExperts):
            return self._launch.kit(super().moe, x, router, gate_up, down, spec, batch)
        return self._launch.kit(self._int_moe, x, router, gate_up, down, spec)

    def _int_moe(self, x: Tensor, router: Weight, gate_up: IntExperts, down: Weight, spec: MoESpec) -> Tensor:
        return moe.experts(x, self._matmul(x, router), gate_up, down, spec, self._int_expert)

    def _int_expert(self, x: Tensor, e: int, gate_up: IntExperts, down: IntExperts, spec: MoESpec) -> Tensor:
        gate, up = torch.split_with_sizes(self._matmul(x, gate_up.each[e]), gate_up.sizes, -1)
        return self._matmul(self.gated_activation(gate, up, spec.activation), down.each[e])

    def embedding(self, ids: Tensor, w: Weight, scale: float = 1.0) -> Tensor:
        if isinstance(w, PackedWeight) and w.tensor.dtype == torch.float32:
            return self._gather(self._kernels.embedding_f32, w.tensor, ids, (w.inputs,), w.inputs, scale)
        if isinstance(w, PackedWeight):
            return self._launch.kit(self._from_panels, ids, w, scale)
        if scale == 1.0 and w.tensor.is_contiguous():
            return self.take(w.tensor, ids)
        return self._launch.kit(super().embedding, ids, w, scale)

    def _from_panels(self, ids: Tensor, w: PackedWeight, scale: float) -> Tensor:
        width = self._kernels.width
        panel, place = ids // width, ids % width
        x = w.tensor[panel.long(), :, place.long()].flatten(1)[:, : w.inputs]  # [T, E]
        return x if scale == 1.0 else x * scale

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        if not x.is_contiguous() or rows.dtype != torch.int32:
            return self._launch.kit(super().take, x, rows)
        return self._gather(self._kernels.gather, x, rows, x.shape[1:], x[:1].nbytes)

    def zeros_like(self, x: Tensor) -> Tensor:
        y = self._launch.empty(tuple(x.shape), x.dtype, like=x)
        work = GatherWork(None, None, y.data_ptr(), self._launch.live(x), len(x), x[:1].nbytes, 1.0)
        self._launch.run(self._kernels.gather, work)
        return y

    def _gather(
        self, kernel: int, x: Tensor, ids: Tensor, shape: tuple[int, ...], size: int, scale: float = 1.0
    ) -> Tensor:
        """Rows `ids` of x, each of this shape."""
        ids = self._launch.dense(ids)
        y = self._launch.empty((len(ids), *shape), x.dtype, like=ids)
        work = GatherWork(x.data_ptr(), ids.data_ptr(), y.data_ptr(), self._launch.live(ids), len(ids), size, scale)
        self._launch.run(kernel, work)
        return y

    def rms_norm(self, x: Tensor, w: Weight, eps: float) -> Tensor:
        if x.dtype != torch.float32 or x.ndim != 2:
            return self._launch.kit(super().rms_norm, x, w, eps)
        return self._norm(self._launch.rows(x), None, w, eps)[0]

    def add_rms_norm(self, x: Tensor, residual: Tensor, w: Weight, eps: float) -> tuple[Tensor, Tensor]:
        if x.dtype != torch.float32:
            return self._launch.kit(super().add_rms_norm, x, residual, w, eps)
        return self._norm(self._launch.rows(x), self._launch.dense(residual), w, eps)

    def _norm(self, x: Tensor, residual: Tensor | None, w: Weight, eps: float) -> tuple[Tensor, Tensor]:
        """-> the norm and the sum; without a residual there is no sum, and x stands for it."""
        rows, size = x.shape
        y = self._launch.empty((rows, size), like=x)
        total = x if residual is None else self._launch.empty((rows, size), like=x)
        work = NormWork(
            *(x.data_ptr(), None if residual is None else residual.data_ptr(), w.tensor.data_ptr(), y.data_ptr()),
            *(total.data_ptr(), self._launch.live(x), x.stride(0), rows, size, eps),
        )
        self._launch.run(self._kernels.rms_norm_f32, work)
        return y, total

    def gated_activation(self, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
        if gate.dtype != torch.float32:
            return self._launch.kit(super().gated_activation, gate, up, kind)
        gate, up = self._launch.rows(gate), self._launch.rows(up)
        rows, size = gate.shape
        y = self._launch.empty((rows, size), like=gate)
        work = GatedWork(
            *(gate.data_ptr(), up.data_ptr(), y.data_ptr(), self._launch.live(gate)),
            *(gate.stride(0), up.stride(0), rows, size, kind == "gelu_tanh"),
        )
        self._launch.run(self._kernels.gated_f32, work)
        return y

    def rope_angles(self, positions: Tensor, w: Weight) -> tuple[Tensor, Tensor]:
        positions = self._launch.dense(positions)
        tokens, half = len(positions), len(w.tensor)
        cosine, sine = (self._launch.empty((tokens, 1, 2 * half), like=positions) for _ in range(2))
        live = self._launch.live(positions)
        pointers = (x.data_ptr() for x in (positions, w.tensor, cosine, sine))
        self._launch.run(self._kernels.rope_angles, RopeWork(*pointers, live, tokens, half))
        return cosine, sine

    def rope(self, x: Tensor, angles: Any) -> Tensor:
        return self._launch.kit(super().rope, x, angles)

    def feed(self, batch: Batch, state: Any) -> Tensor:
        return self._launch.kit(super().feed, batch, state)

    def sample(self, logits: Tensor, batch: Batch, state: Any) -> tuple[Sampled, Any]:
        if batch.key.sample != SampleKind():
            return self._launch.kit(super().sample, logits, batch, state)
        logits = self._launch.dense(logits)
        tokens = self._launch.empty((len(logits),), torch.int32, like=logits)
        pointers = (x.data_ptr() for x in (logits, tokens, batch.row_slot, state.last_token))
        work = GreedyWork(*pointers, self._launch.live(logits), *logits.shape)
        self._launch.run(self._kernels.greedy, work)
        return Sampled(tokens), state

    def _add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._launch.kit(torch.add, x, residual)


def _capped(y: Tensor, softcap: float) -> Tensor:
    return softcap * torch.tanh(y / softcap)
