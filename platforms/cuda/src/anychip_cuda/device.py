"""The device `cuda`: the Triton kit on one card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from anychip_sdk.contract import Communicator, DeviceInfo
from anychip_sdk.kits.triton import TorchCopyStream, TorchGraphs, TritonDevice, TritonOps, adopted

from anychip_cuda.driver import Card
from anychip_cuda.tiles import tiles_of


class CudaOps(TritonOps):
    adopted: ClassVar[Mapping[str, str]] = adopted("cuBLAS")


class CudaDevice(TritonDevice):
    def __init__(self, info: DeviceInfo, card: Card, communicator: Communicator | None = None) -> None:
        device = torch.device("cuda", card.index)
        super().__init__(info, device, TorchGraphs(), communicator, TorchCopyStream(device))
        # Sums of a product stay in float32 to the end.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        self.ops: CudaOps = CudaOps(self.communicator, self._launcher, tiles_of(card.capability))
