"""The entry point of the device `tpu`."""

from __future__ import annotations

from anychip_sdk.contract import Manifest, hookimpl


@hookimpl
def anychip_platform() -> Manifest:
    return Manifest(
        name="tpu",
        platform="anychip_tpu.platform:TpuPlatform",
        summary="Google's TPUs, through JAX and Pallas",
        rank=100,
    )
