"""The ops that run on kernels of our own. What is left goes the way of `CpuOps`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from anychip_sdk.contract import QUANT_FORMATS, Activation, Batch, Communicator, MoESpec, Sampled, StoredWeight
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.kernel_attention import KernelAttention
from anychip_cpu.kernel_moe import Experts, experts
from anychip_cpu.kernel_sampling import sample
from anychip_cpu.launch import Launcher
from anychip_cpu.native import (
    ACTIVATIONS,
    GatedWork,
    GatherWork,
    Kernels,
    LogitsWork,
    NormWork,
    RopeWork,
)
from anychip_cpu.onednn_ops import CpuOps
from anychip_cpu.packed import DTYPES, PackedWeight, can_gate, pack, product
from anychip_cpu.quantized import IntExperts, IntWeight, TiedWeight, int_product, quantize, quantize_experts
from anychip_cpu.screened import ScreenedIntWeight, ScreenedWeight, largest, screened, screened_int
from anychip_cpu.stored import restore
from anychip_cpu.weight_memory import WeightMemory


class KernelOps(CpuOps):
    def __init__(self, communicator: Communicator, kernels: Kernels, launch: Launcher) -> None:
        super().__init__(communicator)
        self._kernels, self._launch, self._memory = kernels, launch, WeightMemory()
        self.attention = KernelAttention(kernels, launch)
        own = f"kernels of our own ({kernels.name.decode()})"
        self.adopted: Mapping[str, str] = {  # type: ignore[misc]  # of this processor, not of the class
            **CpuOps.adopted,
            **dict.fromkeys(("linear", "linear_split"), own),
        }

    def _pack(self, w: Weight, *, embedding: bool, widened: bool = False) -> Weight:
        """Of a linear weight or an embedding [O, I], or experts [E, O, I]. widened: for products in float32."""
        return pack(w, self._kernels, self._memory, widened=widened)

    def _pack_screened(self, w: Weight, *, widened: bool) -> Weight:
        """Of a head for products in float32."""
        return screened(w, pack(w, self._kernels, self._memory, widened=widened), self._kernels, self._memory)

    def _quantize(self, w: Weight, name: str, *, head: bool) -> IntWeight | IntExperts:
        """Of a linear weight [O, I] or experts [E, O, I], in one of `quantized.FORMATS`. head: it is asked for
        `greedy_logits`."""
        if w.tensor.ndim == 3:
            return quantize_experts(w, QUANT_FORMATS[name], self._kernels, self._memory)
        found = quantize(w, QUANT_FORMATS[name], self._kernels, self._memory)
        return screened_int(found, self._memory) if head else found

    def _restore(self, stored: StoredWeight) -> Weight:
        """Raises ContractError for what was never stored, and OutOfMemory."""
        return restore(stored, self._memory)

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        if isinstance(w, IntWeight | TiedWeight):
            return int_product(x, w.head if isinstance(w, TiedWeight) else w, self._kernels, self._launch)
        if not isinstance(w, PackedWeight):
            return self._launch.kit(super()._matmul, x, w)
        return product(x, w, self._kernels, self._launch)

    def logits(self, x: Tensor, w: Weight, softcap: float | None = None) -> Tensor:
        y = self._matmul(x, w)
        if y.dtype == torch.float32 and softcap is None:
            return y
        out = self._launch.empty(tuple(y.shape), like=y)
        work = LogitsWork(y.data_ptr(), out.data_ptr(), self._launch.live(y), *y.shape, softcap or 0.0)
        self._launch.run(self._kernels.of("logits", y.dtype), work)
        return out

    def greedy_logits(self, x: Tensor, w: Weight) -> Tensor:
        head = w.head if isinstance(w, TiedWeight) else w
        if isinstance(head, ScreenedWeight):
            return largest(x, head, self._kernels, self._launch)
        if isinstance(head, ScreenedIntWeight) and x.dtype == torch.float32:
            return int_product(x, head, self._kernels, self._launch, upper=head.upper)
        return self.logits(x, w)

    def moe(self, x: Tensor, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch) -> Tensor:
        if not isinstance(gate_up, Experts) or not isinstance(down, Experts):
            return self._launch.kit(super().moe, x, router, gate_up, down, spec, batch)
        y = experts(x, self._matmul(x, router), gate_up, down, spec, self._kernels, self._launch)
        return self._communicator.all_reduce(y) if down.summed else y

    def embedding(self, ids: Tensor, w: Weight, scale: float = 1.0) -> Tensor:
        if isinstance(w, PackedWeight):
            kernel = self._kernels.of("embedding", w.dtype, w.tensor.dtype)
            scale = torch.tensor(scale, dtype=w.dtype).item()
            y = self._launch.empty((len(ids), w.inputs), w.dtype, like=ids)
            self._gather(kernel, w.tensor, ids, y, 0, w.inputs, scale)
            return y
        if scale == 1.0 and w.tensor.is_contiguous():
            return self.take(w.tensor, ids)
        return self._launch.kit(super().embedding, ids, w, scale)

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        if (x.ndim > 1 and not x[0].is_contiguous()) or rows.dtype != torch.int32:
            return self._launch.kit(super().take, x, rows)
        y = self._launch.empty((len(rows), *x.shape[1:]), x.dtype, like=rows)
        self._gather(self._kernels.gather, x, rows, y, x.stride(0) * x.itemsize, y[:1].nbytes)
        return y

    def zeros_like(self, x: Tensor) -> Tensor:
        y = self._launch.empty(tuple(x.shape), x.dtype, like=x)
        size = y[:1].nbytes
        work = GatherWork(None, None, y.data_ptr(), self._launch.live(x), 0, size, len(x), size, 1.0)
        self._launch.run(self._kernels.gather, work)
        return y

    def _gather(
        self, kernel: int, x: Tensor, ids: Tensor, y: Tensor, stride: int, size: int, scale: float = 1.0
    ) -> None:
        """Rows `ids` of x, which lie `stride` apart, to those of y, which are dense."""
        ids = self._launch.dense(ids)
        pointers = (t.data_ptr() for t in (x, ids, y))
        self._launch.run(kernel, GatherWork(*pointers, self._launch.live(ids), stride, size, len(ids), size, scale))

    def rms_norm(self, x: Tensor, w: Weight, eps: float) -> Tensor:
        if x.dtype not in DTYPES or x.ndim != 2:
            return self._launch.kit(super().rms_norm, x, w, eps)
        return self._norm(self._launch.rows(x), None, w, eps)[0]

    def add_rms_norm(self, x: Tensor, residual: Tensor, w: Weight, eps: float) -> tuple[Tensor, Tensor]:
        if x.dtype not in DTYPES:
            return self._launch.kit(super().add_rms_norm, x, residual, w, eps)
        return self._norm(self._launch.rows(x), self._launch.dense(residual), w, eps)

    def _norm(self, x: Tensor, residual: Tensor | None, w: Weight, eps: float) -> tuple[Tensor, Tensor]:
        """-> the norm and the sum; without a residual there is no sum, and x stands for it."""
        rows, size = x.shape
        y = self._launch.empty_input((rows, size), x.dtype, like=x)
        total = x if residual is None else self._launch.empty((rows, size), x.dtype, like=x)
        work = NormWork(
            *(x.data_ptr(), None if residual is None else residual.data_ptr(), w.tensor.data_ptr(), y.data_ptr()),
            *(total.data_ptr(), self._launch.live(x), x.stride(0), y.stride(0), rows, size, eps),
        )
        self._launch.run(self._kernels.of("rms_norm", x.dtype), work)
        return y, total

    def gated_activation(self, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
        if gate.dtype not in DTYPES:
            return self._launch.kit(super().gated_activation, gate, up, kind)
        gate, up = self._launch.rows(gate), self._launch.rows(up)
        rows, size = gate.shape
        y = self._launch.empty_input((rows, size), gate.dtype, like=gate)
        work = GatedWork(
            *(gate.data_ptr(), up.data_ptr(), y.data_ptr(), self._launch.live(gate)),
            *(gate.stride(0), up.stride(0), y.stride(0), rows, size, ACTIVATIONS[kind]),
        )
        self._launch.run(self._kernels.of("gated", gate.dtype), work)
        return y

    def gated_mlp(self, x: Tensor, gate_up: Weight, down: Weight, kind: Activation) -> Tensor:
        """The gate is applied as the products are made: what they are made of is twice as large as the result."""
        if not can_gate(gate_up.sizes, self._kernels):
            return super().gated_mlp(x, gate_up, down, kind)
        if isinstance(gate_up, IntWeight):
            return self.linear(int_product(x, gate_up, self._kernels, self._launch, gated=kind), down)
        if isinstance(gate_up, PackedWeight):
            return self.linear(product(x, gate_up, self._kernels, self._launch, gated=kind), down)
        return super().gated_mlp(x, gate_up, down, kind)

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
        return sample(logits, batch, state.last_token, self._kernels, self._launch), state
