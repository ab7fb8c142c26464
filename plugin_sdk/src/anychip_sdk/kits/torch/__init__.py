"""The contract in torch, for any torch device: a vendor subclasses `TorchDevice` and overrides what its chip does
better."""

from __future__ import annotations

from anychip_sdk.kits.torch.allocator import TorchAllocator
from anychip_sdk.kits.torch.attention import TorchAttention
from anychip_sdk.kits.torch.communicator import TorchCommunicator
from anychip_sdk.kits.torch.device import TorchDevice
from anychip_sdk.kits.torch.ops import TorchOps

__all__ = ["TorchAllocator", "TorchAttention", "TorchCommunicator", "TorchDevice", "TorchOps"]
