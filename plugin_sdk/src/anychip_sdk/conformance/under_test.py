"""The device that the suite judges: an installed one by name, or a plugin that is not installed, by its manifest."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from importlib import import_module

from anychip_sdk.contract import Device, DeviceInfo, Found, Manifest, Platform, StepPlugin


class SuiteError(Exception):
    """The suite cannot run as asked. One line: what was wrong, what to do."""


@dataclass(frozen=True)
class UnderTest:
    """`name`: as asked for with --device. `distribution`: "name version", or the module of a plugin not installed."""

    name: str
    distribution: str
    manifest: Manifest
    platform: Platform
    index: int
    info: DeviceInfo
    provider: str | None = None
    """whose ops the device takes in place of the platform's own"""

    def open(self) -> Device | StepPlugin:
        """A device of its own for whoever asks; they close it."""
        if self.provider is not None:
            return self.platform.open_with(self.provider, self.index)
        return self.platform.open(self.index)


def find(device: str | None, plugin: str | None = None, provider: str | None = None) -> UnderTest:
    """device: NAME or NAME:INDEX of an installed platform. plugin: MODULE:FUNCTION that gives a Manifest; it goes
    before `device`, of which only the index counts then. provider: see `Platform.providers`. Raises SuiteError."""
    if plugin is not None:
        return _with(_from_manifest(manifest_of(plugin), plugin, device), provider)
    if device is None:
        raise SuiteError("no device was named; give --device NAME, or --plugin MODULE:FUNCTION")
    from anychip.errors import PlatformError
    from anychip.platforms.discovery import discover
    from anychip.platforms.selection import choose, split

    try:
        choice = choose(device)
    except PlatformError as error:
        raise SuiteError(str(error)) from error
    plugins = {p.name: p for p in discover()}
    found = plugins[split(device, plugins)[0]]
    assert found.manifest is not None  # `choose` refuses a plugin without one
    tested = UnderTest(device, found.distribution, found.manifest, choice.platform, choice.index, choice.info)
    return _with(tested, provider)


def _with(tested: UnderTest, provider: str | None) -> UnderTest:
    """Raises SuiteError for a provider that the platform does not have, or that cannot be used here."""
    if provider is None:
        return tested
    known = {p.name: p.broken for p in tested.platform.providers()}
    if provider not in known:
        raise SuiteError(f"{tested.name} has no provider {provider!r}; it has {', '.join(known) or 'none'}")
    broken = known[provider]
    if broken is not None:
        raise SuiteError(f"provider {provider} cannot be used: {broken.reason}; to mend it: {broken.mend}")
    return replace(tested, name=f"{tested.name} with {provider}", provider=provider)


def manifest_of(plugin: str) -> Manifest:
    """plugin: MODULE:FUNCTION. Raises SuiteError."""
    module, _, function = plugin.partition(":")
    if not module or not function:
        raise SuiteError(f"--plugin is {plugin!r}; expected MODULE:FUNCTION, a function that returns a Manifest")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: the plugin is not installed
    try:
        manifest = getattr(import_module(module), function)()
    except Exception as error:
        raise SuiteError(f"--plugin {plugin} gave {type(error).__name__}: {error}; expected a Manifest") from error
    if not isinstance(manifest, Manifest):
        raise SuiteError(f"--plugin {plugin} gave {manifest!r}; expected a Manifest")
    return manifest


def _from_manifest(manifest: Manifest, plugin: str, device: str | None) -> UnderTest:
    module, _, name = manifest.platform.partition(":")
    try:
        platform = getattr(import_module(module), name)()
        result = platform.probe()
    except Exception as error:  # of a vendor's code
        raise SuiteError(f"--plugin {plugin}: {manifest.platform} gave {type(error).__name__}: {error}") from error
    asked = (device or "").partition(":")[2] or "0"
    if not asked.isdecimal():
        raise SuiteError(f"--device is {device!r}; with --plugin only a number behind the colon counts")
    index = int(asked)
    if not isinstance(result, Found) or index >= len(result.devices):
        raise SuiteError(f"--plugin {plugin}: its probe says {result}; there is no device {index} to test")
    return UnderTest(manifest.name, plugin.partition(":")[0], manifest, platform, index, result.devices[index])
