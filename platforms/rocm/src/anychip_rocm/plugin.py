"""The entry point of the device `rocm`."""

from __future__ import annotations

from anychip_sdk.contract import Manifest, Version, hookimpl


@hookimpl
def anychip_platform() -> Manifest:
    return Manifest(
        name="rocm",
        platform="anychip_rocm.platform:RocmPlatform",
        summary="AMD's cards, through torch and Triton",
        rank=95,
        contract=Version(1, 4),
    )
