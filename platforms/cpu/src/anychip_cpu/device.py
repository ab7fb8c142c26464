"""The device `cpu`: the torch kit, with kernels of our own where the library is there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from anychip_sdk.contract import Capabilities, DeviceInfo, DType, Reader, WeightSpec
from anychip_sdk.kits.torch import TorchDevice
from anychip_sdk.kits.torch.allocator import PAGE_SIZES
from anychip_sdk.kits.torch.weights import Weight

from anychip_cpu.kernel_ops import KernelOps
from anychip_cpu.native import kernels
from anychip_cpu.onednn_ops import DTYPES, CpuOps


class CpuDevice(TorchDevice):
    def __init__(self, info: DeviceInfo, threads: int) -> None:
        torch.set_num_threads(threads)
        capabilities = Capabilities(
            weight_dtypes=DTYPES,
            kv_dtypes=DTYPES,
            page_sizes=PAGE_SIZES,
            sliding_window=True,
            softcap=True,
            moe=True,
            device_feedback=True,
            step_tokens=512,  # activations of more leave the cache between two ops
        )
        super().__init__(info, capabilities, "cpu")
        found = kernels()
        self.ops: CpuOps = CpuOps(self.communicator) if found is None else KernelOps(self.communicator, found)

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        w = super().pack(spec, read, shapes, dtype)
        if spec.kind not in ("linear", "embedding"):
            return w
        return self.ops._pack(w, embedding=spec.kind == "embedding")
