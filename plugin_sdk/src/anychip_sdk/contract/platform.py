"""The platform: one per plugin. Its manifest is pure data; its probe says what there is, or why not."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

from anychip_sdk.contract.checked import Checked
from anychip_sdk.contract.device import Device, DeviceInfo, Step
from anychip_sdk.contract.errors import NotSupported
from anychip_sdk.contract.specs import StepKey
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


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Another library whose ops a platform can take in place of its own. It is taken where a user asks for it, and
    never else. `name`: as --provider takes it; `summary`: one line on what it is; `broken`: why it cannot be used here
    and the command that mends it, None where it can."""

    name: str
    summary: str
    broken: Broken | None = None


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a chip's maker publishes of it, for estimates. `chips`: how many work as one. Of each: `bandwidth`: bytes of
    its memory per second; `flops`: operations per second in the dtype that it prefers; `link`: bytes per second that it
    sends to the others."""

    chips: int
    bandwidth: float
    flops: float
    link: float


class Planned(Checked):
    """A device that is not here. `device.pack`, `device.state` and `device.allocator.allocate` give descriptions, and
    nothing runs on it; its memory is all free. `no_compiler`: why steps cannot be compiled for it here, and the command
    that mends it; "" where they can."""

    device: Device
    rates: Rates
    no_compiler: str = ""

    @abstractmethod
    def compile(self, step: Step, key: StepKey, weights: Any, kv: Any, state: Any) -> int:
        """Compiles a step over these descriptions. -> bytes of one chip's memory with weights, pages and all that the
        step needs beside them. Raises OutOfMemory where that is more than there is. Not called with `no_compiler`."""


class Platform(Checked):
    """Made without arguments. `probe` must be quick and must not take memory on the device."""

    @abstractmethod
    def probe(self) -> Found | Absent | Broken: ...

    @abstractmethod
    def open(self, index: int = 0, *, threads: int | None = None) -> Device | StepPlugin:
        """Opens device `index` of `Found.devices`. threads: host threads to use, None for the platform's own
        choice. Raises DeviceError."""

    def providers(self) -> tuple[Provider, ...]:
        """The libraries that `open_with` knows, whether they can be used here or not. As quick as `probe`."""
        return ()

    def open_with(self, provider: str, index: int = 0, *, threads: int | None = None) -> Device | StepPlugin:
        """`open`, with every op of the contract that this provider has; `Ops.provided` names them. Raises NotSupported
        for one that is not among `providers`, and DeviceError for one that cannot be used here."""
        known = ", ".join(p.name for p in self.providers()) or "none"
        raise NotSupported(f"there is no provider {provider!r}; {type(self).__name__} has {known}")

    def plan(self, which: str) -> Planned:
        """A device that need not be here, by what a user writes behind the platform's name ("v5e-4"). Raises
        NotSupported for one it does not know, saying what it knows."""
        raise NotSupported(f"{type(self).__name__} plans no devices that are not here")
