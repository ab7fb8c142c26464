"""Whether Numba is here, and how the device is opened."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from anychip_sdk.contract import Broken, Device, DeviceError, DeviceInfo, Found, Platform


class NumbaPlatform(Platform):
    def probe(self) -> Found | Broken:
        """Reads metadata only: importing Numba takes a second."""
        try:
            details = {name: version(name) for name in ("numba", "llvmlite")}
        except PackageNotFoundError as error:
            return Broken(f"{error.name} is not installed", "pip install numba")
        description = f"the host's processor, Numba {details['numba']}"
        return Found((DeviceInfo(name="numba", description=description, details=details),))

    def open(self, index: int = 0, *, threads: int | None = None) -> Device:
        found = self.probe()
        if isinstance(found, Broken):
            raise DeviceError(f"{found.reason}; to mend it: {found.mend}")
        if index != 0:
            raise DeviceError(f"there is no device numba:{index}; there is one, numba:0")
        if threads not in (None, 1):
            raise DeviceError(f"threads is {threads}; the kernels of numba run in one thread")
        from anychip_numba.device import NumbaDevice

        return NumbaDevice(found.devices[0])
