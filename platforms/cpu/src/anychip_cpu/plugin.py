"""The entry point of the device `cpu`."""

from __future__ import annotations

from anychip_sdk.contract import Manifest, Version, hookimpl


@hookimpl
def anychip_platform() -> Manifest:
    return Manifest(
        name="cpu",
        platform="anychip_cpu.platform:CpuPlatform",
        summary="the host's processor, through torch",
        rank=10,
        contract=Version(1, 4),
    )
