"""The device `cpu`: the torch kit, with the ops it takes from there on purpose."""

from __future__ import annotations

import torch

from anychip_sdk.contract import Attention, Capabilities, DeviceInfo, DType, Ops
from anychip_sdk.kits.torch import TorchDevice, TorchOps
from anychip_sdk.kits.torch.allocator import PAGE_SIZES

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
_KIT = "the torch kit: torch's own CPU kernels"


class CpuOps(TorchOps):
    adopted = {
        **{name: _KIT for name in vars(Ops) if not name.startswith("_")},
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
