"""The ops of the torch kit, with packed products, and what the platform takes from the kit on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from anychip_sdk.contract import Attention, DType, Ops
from anychip_sdk.kits.torch import TorchOps
from anychip_sdk.kits.torch.weights import TORCH_DTYPES, Weight
from torch import Tensor

from anychip_cpu.onednn import can_pack, packed, product

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
_KIT = "torch's own kernels (oneDNN)"
_PACKED = "torch's own kernels (oneDNN), weights packed for: "
_PLAIN = "torch's own kernels; this torch has no packed oneDNN products"


def _product_reason() -> str:
    names = [name for name in DTYPES if can_pack(TORCH_DTYPES[name])]
    return _PACKED + ", ".join(names) if names else _PLAIN


@dataclass
class OnednnWeight(Weight):
    """`packed`: of a linear weight it is `tensor` itself; an embedding gets it when it first serves as the head."""

    packed: Tensor | None = None


class CpuOps(TorchOps):
    adopted: ClassVar[Mapping[str, str]] = {
        **{name: _KIT for name in vars(Ops) if not name.startswith("_")},
        **{name: _product_reason() for name in ("linear", "linear_split", "logits")},
        **{f"attention.{name}": _KIT for name in vars(Attention) if not name.startswith("_")},
        **{f"allocator.{name}": _KIT for name in ("memory", "layout", "allocate", "free", "copy_pages")},
    }

    def _pack(self, w: Weight, *, embedding: bool) -> Weight:
        """Of a linear weight or an embedding [O, I], laid out for `_matmul`."""
        if not can_pack(w.tensor.dtype):
            return w
        if embedding:
            return OnednnWeight(**vars(w))
        w.tensor = packed(w.tensor)
        return OnednnWeight(**vars(w), packed=w.tensor)

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        if not isinstance(w, OnednnWeight):
            return super()._matmul(x, w)
        if w.packed is None:
            w.packed = packed(w.tensor)
        return product(x, w.packed, w.bias)
