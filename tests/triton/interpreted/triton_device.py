"""The torch kit's device on the host, with the ops of the Triton kit, interpreted."""

from __future__ import annotations

import torch
from anychip_sdk.kits.torch import TorchDevice
from anychip_sdk.kits.triton import Launcher, Tile, Tiles, TritonAllocator, TritonOps
from torch_cases import kit_device

DTYPES = ("float32", "float16")
_ATTENTION = {(item, block): Tile(rows=32, columns=16) for item in (2, 4) for block in (64, 128, 256)}
_EXPERTS = {item: Tile(rows=16, columns=16, depth=16) for item in (2, 4)}
TILES = Tiles(decode=_ATTENTION, prefill=_ATTENTION, experts_few=_EXPERTS, experts_many=_EXPERTS, chunk=16, programs=3)
"""Small, so that short sequences have several chunks and tiles, and programs several pieces of work."""


def triton_device(tiles: Tiles = TILES) -> TorchDevice:
    device = kit_device()
    launch = Launcher()
    device.ops = TritonOps(device.communicator, launch, tiles)
    device.allocator = TritonAllocator(launch, torch.device("cpu"), DTYPES)
    return device
