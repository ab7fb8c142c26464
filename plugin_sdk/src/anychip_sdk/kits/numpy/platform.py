"""The platform `numpy`: found on every machine."""

from __future__ import annotations

import numpy as np

from anychip_sdk.contract import DeviceError, DeviceInfo, Found, Platform
from anychip_sdk.kits.numpy.device import NumpyDevice


class NumpyPlatform(Platform):
    def probe(self) -> Found:
        return Found((DeviceInfo(name="numpy", description=f"numpy {np.__version__}, the reference", details={}),))

    def open(self, index: int = 0, *, threads: int | None = None) -> NumpyDevice:
        if threads is not None:
            raise DeviceError("numpy cannot change its threads at run time; set OMP_NUM_THREADS before the start")
        return NumpyDevice(self.probe().devices[index])
