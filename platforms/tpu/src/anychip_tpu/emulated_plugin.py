"""The entry point of the device `tpu-emulated`, a plugin of its own since `tpu` itself is absent without a TPU."""

from __future__ import annotations

from anychip_sdk.contract import Manifest, hookimpl


@hookimpl
def anychip_platform() -> Manifest:
    return Manifest(
        name="tpu-emulated",
        platform="anychip_tpu.platform:EmulatedPlatform",
        summary="the TPU's step on JAX's CPU backend, for development",
        rank=0,  # as numpy, which is always there and comes first: `auto` never takes this one
    )
