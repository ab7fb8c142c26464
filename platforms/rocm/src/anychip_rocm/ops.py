"""The ops of the device `rocm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from anychip_sdk.kits.triton import TritonOps, adopted


class RocmOps(TritonOps):
    adopted: ClassVar[Mapping[str, str]] = adopted("hipBLASLt")
