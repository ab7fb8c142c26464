"""The platform `numpy`: found on every machine."""

from __future__ import annotations

import numpy as np

from anychip_sdk.contract import DeviceError, DeviceInfo, Found, Platform
from anychip_sdk.kits.numpy.device import NumpyDevice


class NumpyPlatform(Platform):
    def probe(self) -> Found:
        info = DeviceInfo(
            name="numpy", description=f"numpy {np.__version__}, the reference", details={"numpy": np.__version__}
        )
        return Found((info,))

    def open(self, index: int = 0, *, threads: int | None = None) -> NumpyDevice:
        if index != 0:
            raise DeviceError(f"there is no device numpy:{index}; there is one, numpy:0")
        if threads is not None:
            raise DeviceError(
                f"numpy cannot be set to {threads} threads at run time; set OMP_NUM_THREADS before the start"
            )
        return NumpyDevice(self.probe().devices[index])
