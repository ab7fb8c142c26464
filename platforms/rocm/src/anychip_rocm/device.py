"""The device `rocm`: the Triton kit on one card. torch's ROCm builds call its devices "cuda"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from anychip_sdk.contract import Communicator, DeviceInfo
from anychip_sdk.kits.triton import TorchCopyStream, TorchGraphs, TritonDevice, TritonOps, adopted

from anychip_rocm.kernel_driver import Card
from anychip_rocm.tiles import TILES


class RocmOps(TritonOps):
    adopted: ClassVar[Mapping[str, str]] = adopted("hipBLASLt")


class RocmDevice(TritonDevice):
    def __init__(self, info: DeviceInfo, card: Card, communicator: Communicator | None = None) -> None:
        device = torch.device("cuda", card.index)
        super().__init__(info, device, TorchGraphs(), communicator, TorchCopyStream(device))
        self.ops: RocmOps = RocmOps(self.communicator, self._launcher, TILES[card.arch])
