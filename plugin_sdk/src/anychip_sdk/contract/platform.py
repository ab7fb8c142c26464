"""The platform: one per plugin. Its manifest is pure data; its probe says what there is, or why not."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from anychip_sdk.contract.checked import Checked
from anychip_sdk.contract.device import Device, DeviceInfo
from anychip_sdk.contract.step_plugin import StepPlugin
from anychip_sdk.contract.version import CONTRACT_VERSION, Version


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a plugin says of itself before anything heavy is imported.

    `name`: as `--device` takes it. `platform`: "module:Class", imported when the platform is probed. `rank`: `auto`
    takes the highest rank that is found. `contract`: the version the plugin was written for; left out, it is that of
    the SDK it is imported with, which is right only for a plugin that is released together with the SDK."""

    name: str
    platform: str
    summary: str
    rank: int
    contract: Version = field(default=CONTRACT_VERSION)


@dataclass(frozen=True)
class Found:
    """Devices that can be opened, by index."""

    devices: tuple[DeviceInfo, ...]


@dataclass(frozen=True)
class Absent:
    """There is no such hardware here. `reason`: one line."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """The hardware seems to be here but cannot be used. `reason`: one line; `mend`: the command that mends it."""

    reason: str
    mend: str


class Platform(Checked):
    """Made without arguments. `probe` must be quick and must not take memory on the device."""

    @abstractmethod
    def probe(self) -> Found | Absent | Broken: ...

    @abstractmethod
    def open(self, index: int = 0, *, threads: int | None = None) -> Device | StepPlugin:
        """Opens device `index` of `Found.devices`. threads: host threads to use, None for the platform's own
        choice. Raises DeviceError."""
