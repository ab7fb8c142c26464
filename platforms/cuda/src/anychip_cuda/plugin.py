"""The entry point of the device `cuda`."""

from __future__ import annotations

from anychip_sdk.contract import Manifest, Version, hookimpl


@hookimpl
def anychip_platform() -> Manifest:
    return Manifest(
        name="cuda",
        platform="anychip_cuda.platform:CudaPlatform",
        summary="NVIDIA's cards, through torch and Triton",
        rank=100,
        contract=Version(1, 4),
    )
