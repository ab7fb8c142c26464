"""Always found, once."""

from anychip_sdk.contract import Device, DeviceError, DeviceInfo, Found, Platform, StepPlugin

INFO = DeviceInfo(name="elder", description="numpy, written for contract 1.0", details={})


class ElderPlatform(Platform):
    def probe(self) -> Found:
        return Found((INFO,))

    def open(self, index: int = 0, *, threads: int | None = None) -> Device | StepPlugin:
        if index != 0 or threads is not None:
            raise DeviceError(f"elder has device 0 alone and sets no threads; asked for {index} and {threads}")
        from anychip_elder.device import ElderDevice

        return ElderDevice(INFO)
