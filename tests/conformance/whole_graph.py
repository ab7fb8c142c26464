"""A plugin that owns the whole step, for `--plugin whole_graph:manifest`."""

from __future__ import annotations

import sys
from pathlib import Path

from anychip_sdk.contract import DeviceError, Found, KVLayout, KVSpec, Manifest, NotSupported, Platform

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platforms"))


def manifest() -> Manifest:
    return Manifest(name="graph", platform="whole_graph:GraphPlatform", summary="whole steps", rank=0)


class GraphPlatform(Platform):
    def probe(self) -> Found:
        from whole_steps import INFO

        return Found((INFO,))

    def open(self, index: int = 0, *, threads: int | None = None):
        from whole_steps import WholeSteps

        class Strict(WholeSteps):
            def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
                if page_size not in (None, 16) or spec.dtype != "float32":
                    raise NotSupported("pages of 16 tokens in float32 only")
                return super().layout(spec, budget=budget, page_size=page_size, max_len=max_len, slots=slots)

        if index:
            raise DeviceError(f"there is no device graph:{index}")
        return Strict()
