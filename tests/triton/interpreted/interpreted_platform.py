"""The Triton kit as a platform that the conformance suite can judge on a machine without a card."""

from __future__ import annotations

from anychip_sdk.contract import Found, Manifest, Platform
from anychip_sdk.kits.triton import TritonDevice
from triton_device import FAKE, recording_device


class InterpretedPlatform(Platform):
    def probe(self) -> Found:
        return Found((FAKE,))

    def open(self, index: int = 0, *, threads: int | None = None) -> TritonDevice:
        return recording_device()[0]


def manifest() -> Manifest:
    platform = f"{InterpretedPlatform.__module__}:{InterpretedPlatform.__qualname__}"
    return Manifest(name="fake", platform=platform, summary="the Triton kit, interpreted", rank=0)
