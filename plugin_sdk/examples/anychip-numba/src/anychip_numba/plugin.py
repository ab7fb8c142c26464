"""The entry point: pure data, since every command reads it."""

from __future__ import annotations

from anychip_sdk.contract import Manifest, Version, hookimpl


@hookimpl
def anychip_platform() -> Manifest:
    return Manifest(
        name="numba",
        platform="anychip_numba.platform:NumbaPlatform",
        summary="the host's processor, through Numba",
        rank=5,
        contract=Version(1, 0),
    )
