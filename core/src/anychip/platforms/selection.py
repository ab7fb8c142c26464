"""From the word after `--device` to an open device."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module

from anychip_sdk.contract import (
    Absent,
    Broken,
    Device,
    DeviceError,
    DeviceInfo,
    Found,
    Manifest,
    NotSupported,
    Platform,
    StepPlugin,
)

from anychip.errors import PlatformError
from anychip.platforms.discovery import Plugin, discover, first_line, upgrade


@dataclass(frozen=True)
class Probed:
    """A plugin and what it found. `platform` is None where it is Broken before it could be made."""

    plugin: Plugin
    platform: Platform | None
    result: Found | Absent | Broken


@dataclass(frozen=True)
class Choice:
    """The device that will be opened, and why this one where the user did not say."""

    platform: Platform
    index: int
    info: DeviceInfo
    reason: str


def probe(plugin: Plugin) -> Probed:
    """Never raises for a plugin's sake."""
    if plugin.manifest is None:
        return Probed(plugin, None, plugin.problem or Broken("no manifest", "install it again"))
    try:
        with redirect_stdout(sys.stderr):  # what a plugin prints must not get into a command's output
            platform = _make(plugin.manifest)
            result = platform.probe()
    except (Exception, SystemExit) as error:
        reason = f"{plugin.distribution}: the probe failed: {first_line(error)}"
        return Probed(plugin, None, Broken(reason, upgrade(plugin.distribution)))
    sound = isinstance(result, Absent | Broken) or (
        isinstance(result, Found) and all(isinstance(info, DeviceInfo) for info in result.devices)
    )
    if not sound:
        reason = f"{plugin.distribution}: probe returned {result!r} instead of Found, Absent or Broken"
        return Probed(plugin, platform, Broken(reason, upgrade(plugin.distribution)))
    return Probed(plugin, platform, result)


def _make(manifest: Manifest) -> Platform:
    module, _, name = manifest.platform.partition(":")
    made = getattr(import_module(module), name)()
    if not isinstance(made, Platform):
        raise TypeError(f"{manifest.platform} is no subclass of anychip_sdk.contract.Platform")
    return made


def probe_all() -> list[Probed]:
    """Every plugin, best rank first."""
    return [probe(plugin) for plugin in discover()]


def choose(device: str) -> Choice:
    """`auto`, NAME or NAME:INDEX. Raises PlatformError, saying what there is, or what is broken and how to mend it."""
    if device == "auto":
        return _choose_best()
    name, _, index = device.partition(":")
    plugins = {p.name: p for p in discover()}
    if name not in plugins:
        known = ", ".join(sorted(plugins)) or "none"
        raise PlatformError(
            f"there is no device {name!r}; installed: {known}: choose one of these, or install the platform that has it"
        )
    probed = probe(plugins[name])
    if isinstance(probed.result, Found) and probed.platform:
        return _at(probed.platform, probed.result, name, index)
    raise PlatformError(explain(probed))


def _at(platform: Platform, found: Found, name: str, index: str) -> Choice:
    count = len(found.devices)
    if count == 0:
        raise PlatformError(f"{name} has found no device; see anychip devices, or name another with --device")
    if not index:
        return Choice(platform, 0, found.devices[0], "asked for")
    for i, info in enumerate(found.devices):
        if info.name == f"{name}:{index}":
            return Choice(platform, i, info, "asked for")
    if index.isdecimal() and int(index) < count:
        return Choice(platform, int(index), found.devices[int(index)], "asked for")
    names = ", ".join(i.name for i in found.devices)
    raise PlatformError(f"there is no device {name}:{index}; {name} has {count}: {names}")


def _choose_best() -> Choice:
    tried: list[str] = []
    for plugin in discover():
        probed = probe(plugin)
        if isinstance(probed.result, Broken):
            raise PlatformError(f"{explain(probed)}; or name another device with --device")
        if isinstance(probed.result, Found) and probed.platform and probed.result.devices:
            reason = "; ".join([*tried, f"{plugin.name} has the highest rank of what is here"])
            return Choice(probed.platform, 0, probed.result.devices[0], reason)
        tried.append(explain(probed))
    raise PlatformError(
        "no device was found: " + ("; ".join(tried) or "no platform is installed (pip install anychip[cpu])")
    )


def explain(probed: Probed) -> str:
    """One line on a platform that cannot be used."""
    result, name = probed.result, probed.plugin.name
    if isinstance(result, Broken):
        return f"{name} is broken: {result.reason}; to mend it: {result.mend}"
    if isinstance(result, Absent):
        return f"{name} is absent: {result.reason}"
    return f"{name} has {len(result.devices)} devices"


def open_device(choice: Choice, threads: int | None) -> Device | StepPlugin:
    """Raises PlatformError where the device cannot be opened."""
    try:
        device = choice.platform.open(choice.index, threads=threads)
    except (DeviceError, NotSupported) as error:
        raise PlatformError(f"{choice.info.name} cannot be opened: {error}") from error
    except Exception as error:  # of a vendor's library, which knows no contract
        raise PlatformError(f"{choice.info.name} cannot be opened: {first_line(error)}") from error
    if not isinstance(device, Device | StepPlugin):
        raise PlatformError(f"{choice.info.name} cannot be opened: it gave {device!r}, no Device and no StepPlugin")
    return device
