"""The entry point."""

from anychip_sdk.contract import Manifest, Version, hookimpl


@hookimpl
def anychip_platform() -> Manifest:
    return Manifest(
        name="elder",
        platform="anychip_elder.platform:ElderPlatform",
        summary="numpy, written for contract 1.0",
        rank=0,
        contract=Version(1, 0),
    )
