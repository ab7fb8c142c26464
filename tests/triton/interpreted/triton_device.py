"""Devices on the host with the ops of the Triton kit, interpreted."""

from __future__ import annotations

from dataclasses import replace

import torch
from anychip_sdk.contract import DeviceInfo
from anychip_sdk.kits.torch import TorchDevice
from anychip_sdk.kits.triton import Launcher, Tile, Tiles, TritonAllocator, TritonDevice, TritonOps
from fake_graphs import FakeGraphs
from torch_cases import kit_device

DTYPES = ("float32", "float16")
_ATTENTION = {(item, block): Tile(rows=32, columns=16) for item in (2, 4) for block in (64, 128, 256)}
_EXPERTS = {item: Tile(rows=16, columns=16, depth=16) for item in (2, 4)}
TILES = Tiles(decode=_ATTENTION, prefill=_ATTENTION, experts_few=_EXPERTS, experts_many=_EXPERTS, chunk=16, programs=3)
"""Small, so that short sequences have several chunks and tiles, and programs several pieces of work."""
FAKE = DeviceInfo(name="fake", description="graphs on the host", details={})


def triton_device(tiles: Tiles = TILES) -> TorchDevice:
    """The torch kit's, eager."""
    device = kit_device()
    launch = Launcher()
    device.ops = TritonOps(device.communicator, launch, tiles)
    device.allocator = TritonAllocator(launch, torch.device("cpu"), DTYPES)
    return device


def recording_device() -> tuple[TritonDevice, FakeGraphs]:
    """The Triton kit's, which pads, records and replays decoding steps; and what it recorded. It claims no bfloat16,
    which the interpreter miscomputes."""
    graphs = FakeGraphs()
    device = TritonDevice(FAKE, "cpu", graphs)
    device.capabilities = replace(device.capabilities, weight_dtypes=DTYPES, kv_dtypes=(*DTYPES, "int8", "fp8"))
    # Wider ones, of which there are fewer: an operation takes the interpreter as long on one number as on hundreds.
    attention = {size: replace(tile, columns=64) for size, tile in _ATTENTION.items()}
    experts = {4: Tile(rows=16, columns=64, depth=64)}
    tiles = replace(TILES, decode=attention, prefill=attention, experts_few=experts, chunk=64)
    device.ops = TritonOps(device.communicator, device._launcher, tiles)
    return device, graphs
