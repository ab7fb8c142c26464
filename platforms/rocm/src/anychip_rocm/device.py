"""The device `rocm`: the Triton kit on one card. torch's ROCm builds call its devices "cuda"."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from anychip_sdk.contract import Communicator, DeviceInfo, DType, Reader, WeightSpec
from anychip_sdk.kits.torch.weights import TORCH_DTYPES, Weight
from anychip_sdk.kits.triton import TorchCopyStream, TorchGraphs, TritonDevice

from anychip_rocm.aiter_ops import AiterOps, narrowed
from anychip_rocm.kernel_driver import Card
from anychip_rocm.ops import RocmOps
from anychip_rocm.tiles import TILES


class RocmDevice(TritonDevice):
    def __init__(
        self, info: DeviceInfo, card: Card, communicator: Communicator | None = None, *, aiter: bool = False
    ) -> None:
        """aiter: take the ops that AITER has. Raises DeviceError where it does not load."""
        device = torch.device("cuda", card.index)
        super().__init__(info, device, TorchGraphs(), communicator, TorchCopyStream(device))
        kind = AiterOps if aiter else RocmOps
        self.ops: RocmOps = kind(self.communicator, self._launcher, TILES[card.arch])

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        w = super().pack(spec, read, shapes, dtype)
        if spec.kind == "norm" and isinstance(self.ops, AiterOps):
            return narrowed(w, TORCH_DTYPES[dtype])
        return w
