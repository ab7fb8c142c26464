"""The device `cpu`: the torch kit, with packed products, and the ops it takes from the kit on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from anychip_sdk.contract import Attention, Capabilities, DeviceInfo, DType, Ops, Reader, WeightSpec
from anychip_sdk.kits.torch import TorchDevice, TorchOps
from anychip_sdk.kits.torch.allocator import PAGE_SIZES
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.linear import can_pack, packed, product

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
_KIT = "torch's own kernels (oneDNN)"
_PACKED = "torch's own kernels (oneDNN), weights packed for: "
_PLAIN = "torch's own kernels; this torch has no packed oneDNN products"


def _product_reason() -> str:
    names = [name for name in DTYPES if can_pack(getattr(torch, name))]
    return _PACKED + ", ".join(names) if names else _PLAIN


@dataclass
class CpuWeight(Weight):
    """`packed`: of a linear weight it is `tensor` itself; an embedding gets it when it first serves as the head."""

    packed: Tensor | None = None


class CpuOps(TorchOps):
    adopted: ClassVar[Mapping[str, str]] = {
        **{name: _KIT for name in vars(Ops) if not name.startswith("_")},
        **{name: _product_reason() for name in ("linear", "linear_split", "logits")},
        **{f"attention.{name}": _KIT for name in vars(Attention) if not name.startswith("_")},
        **{f"allocator.{name}": _KIT for name in ("memory", "layout", "allocate", "free", "copy_pages")},
    }

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        if not isinstance(w, CpuWeight):
            return super()._matmul(x, w)
        if w.packed is None:
            w.packed = packed(w.tensor)
        return product(x, w.packed, w.bias)


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
        self.ops = CpuOps(self.communicator)

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        w = super().pack(spec, read, shapes, dtype)
        if spec.kind not in ("linear", "embedding") or not can_pack(w.tensor.dtype):
            return w
        if spec.kind == "embedding":
            return CpuWeight(**vars(w))
        w.tensor = packed(w.tensor)
        return CpuWeight(**vars(w), packed=w.tensor)
