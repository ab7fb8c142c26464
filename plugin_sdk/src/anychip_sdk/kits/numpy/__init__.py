"""The oracle: every op in numpy, slow and obviously right. It is also the device `numpy`, which needs no framework."""

from __future__ import annotations

from anychip_sdk.kits.numpy.allocator import NumpyAllocator
from anychip_sdk.kits.numpy.attention import NumpyAttention
from anychip_sdk.kits.numpy.device import CAPABILITIES, NumpyDevice
from anychip_sdk.kits.numpy.ops import NumpyOps
from anychip_sdk.kits.numpy.weights import Weight

__all__ = ["CAPABILITIES", "NumpyAllocator", "NumpyAttention", "NumpyDevice", "NumpyOps", "Weight"]
