"""The entry point of the device `numpy`."""

from __future__ import annotations

from anychip_sdk.contract import Manifest, hookimpl


@hookimpl
def anychip_platform() -> Manifest:
    return Manifest(
        name="numpy",
        platform="anychip_sdk.kits.numpy.platform:NumpyPlatform",
        summary="reference device: any machine, no framework, slow and exact",
        rank=0,
    )
