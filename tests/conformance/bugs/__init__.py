"""Seeded bugs: faulty variants of the kits, each a few lines and each a bug that this field knows. They test the suite.

`bugs:manifest_NAME` is a plugin for `anychip conformance --plugin`, `bugs:group_NAME` a group for `--group`."""

from __future__ import annotations

from typing import Any

from anychip_sdk.contract import DeviceError, DeviceInfo, Found, Manifest, Platform
from anychip_sdk.kits.numpy import NumpyDevice

from bugs.registry import BUGS, Bug

INFO = DeviceInfo(name="buggy", description="a kit with a seeded bug", details={})


def _torch_device() -> Any:
    import torch_group
    from anychip_sdk.kits.torch import TorchDevice

    return TorchDevice(INFO, torch_group.CLAIMS, "cpu")


def _platform(bug: Bug) -> type[Platform]:
    class Buggy(Platform):
        def probe(self) -> Found:
            return Found((INFO,))

        def open(self, index: int = 0, *, threads: int | None = None) -> Any:
            if index != 0 and bug.name != "opens_any_index":
                raise DeviceError(f"there is no device buggy:{index}")
            device = _torch_device() if bug.base == "torch" else NumpyDevice(INFO)
            bug.plant(device)
            return device

        def open_with(self, provider: str, index: int = 0, *, threads: int | None = None) -> Any:
            if bug.name != "takes_any_provider":
                return super().open_with(provider, index, threads=threads)
            return self.open(index, threads=threads)

    return Buggy


def __getattr__(name: str) -> Any:
    """Manifests, platforms and groups of every bug, by name."""
    kind, _, bug = name.partition("_")
    if bug not in BUGS:
        raise AttributeError(name)
    if kind == "manifest":
        return lambda: Manifest(name="buggy", platform=f"bugs:platform_{bug}", summary="seeded", rank=0)
    if kind == "platform":
        return _platform(BUGS[bug])
    if kind == "group":
        from bugs.communication import group

        return group(BUGS[bug])
    raise AttributeError(name)
