"""The torch kit with kernels of our own in Triton, for any chip that Triton compiles for.

A platform brings its tiles (`tiles.Tiles`) and subclasses the ops. Nothing here knows a vendor."""

from __future__ import annotations

from anychip_sdk.kits.triton.allocator import TritonAllocator
from anychip_sdk.kits.triton.attention import TritonAttention
from anychip_sdk.kits.triton.device import TritonDevice
from anychip_sdk.kits.triton.graphs import Graph, Graphs, TorchGraphs
from anychip_sdk.kits.triton.launch import Launcher, Recorder
from anychip_sdk.kits.triton.ops import TritonOps, adopted
from anychip_sdk.kits.triton.tiles import Tile, Tiles
from anychip_sdk.kits.triton.uploads import CopyStream, TorchCopyStream

__all__ = [
    "CopyStream", "Graph", "Graphs", "Launcher", "Recorder", "Tile", "Tiles", "TorchCopyStream", "TorchGraphs",
    "TritonAllocator", "TritonAttention", "TritonDevice", "TritonOps", "adopted",
]  # fmt: skip
