"""The device `cpu`: the torch kit, with the ops it takes from there on purpose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from anychip_sdk.contract import Attention, Capabilities, DeviceInfo, DType, Ops
from anychip_sdk.kits.torch import TorchDevice, TorchOps
from anychip_sdk.kits.torch.allocator import PAGE_SIZES
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
MAX_PARTS = 16
_KIT = "the torch kit: torch's own CPU kernels"


class CpuOps(TorchOps):
    """Torch's `linear` multiplies by a transposed weight: in float32 it stays far from the GEMM peak for the few rows
    of a decode batch and uses one thread for a single row. Both products here read the weight as it lies."""

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        if x.dtype != torch.float32:
            return super()._matmul(x, w)
        rows, outputs = x.shape[0], w.tensor.shape[0]
        parts = math.gcd(outputs, MAX_PARTS)
        if rows == 1 and parts > 1:  # parts of the weight run on different threads
            stacked = w.tensor.view(parts, outputs // parts, -1)
            y = torch.bmm(stacked, x.t().expand(parts, -1, 1)).view(1, outputs)
        else:
            y = (w.tensor @ x.t()).t().contiguous()
        return y if w.bias is None else y.add_(w.bias)

    adopted: ClassVar[Mapping[str, str]] = {
        **{name: _KIT for name in vars(Ops) if not name.startswith("_")},
        **dict.fromkeys(("linear", "linear_split", "logits"), "the torch kit, over this platform's float32 product"),
        **{f"attention.{name}": _KIT for name in vars(Attention) if not name.startswith("_")},
        **{f"allocator.{name}": _KIT for name in ("memory", "layout", "allocate", "free", "copy_pages")},
    }


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
        )
        super().__init__(info, capabilities, "cpu")
        self.ops = CpuOps(self.communicator)
