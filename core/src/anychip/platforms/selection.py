"""From the word after `--device` to an open device."""

from __future__ import annotations

from collections.abc import Container, Mapping
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
    Memory,
    NotSupported,
    Planned,
    Platform,
    Provider,
    StepPlugin,
)

from anychip.errors import PlatformError
from anychip.platforms.discovery import Plugin, discover, first_line, one_line, upgrade
from anychip.platforms.isolation import NoAnswer, isolated, printing_to_stderr


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
    distribution: str


def probe(plugin: Plugin) -> Probed:
    """Never raises for a plugin's sake."""
    if plugin.manifest is None:
        return Probed(plugin, None, plugin.problem or Broken("no manifest", "install it again"))
    manifest = plugin.manifest
    try:
        platform, result = isolated(lambda: _look(manifest))
    except NoAnswer as error:
        return _broken(plugin, f"the probe hangs: {error}; expected one that looks at files and metadata only")
    except (Exception, SystemExit) as error:
        return _broken(plugin, f"the probe failed: {first_line(error)}")
    if not _sound(result):
        return _broken(plugin, f"probe returned {one_line(repr(result))} instead of Found, Absent or Broken")
    return Probed(plugin, platform, result)


def _broken(plugin: Plugin, reason: str) -> Probed:
    return Probed(plugin, None, Broken(f"{plugin.distribution}: {reason}", upgrade(plugin.distribution)))


def _look(manifest: Manifest) -> tuple[Platform, Found | Absent | Broken]:
    platform = _make(manifest)
    return platform, platform.probe()


def _sound(result: object) -> bool:
    """Whether the rest can work with it: a plugin's types are not checked by anyone before."""
    if isinstance(result, Absent):
        return isinstance(result.reason, str)
    if isinstance(result, Broken):
        return isinstance(result.reason, str) and isinstance(result.mend, str)
    devices = result.devices if isinstance(result, Found) else None
    return isinstance(devices, tuple) and all(
        isinstance(info, DeviceInfo)
        and isinstance(info.name, str)
        and isinstance(info.description, str)
        and isinstance(info.details, Mapping)
        for info in devices
    )


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
    probed, index = find(device)
    if _plans(probed) and index and not index.isdecimal() and not _has(probed, device):
        raise PlatformError(
            f"there is no device {device} here: {explain(probed)}; only anychip plan takes devices that are not here"
        )
    if isinstance(probed.result, Found):
        return take(probed, index_of(probed.result, probed.plugin.name, index), "asked for")
    raise PlatformError(explain(probed))


def _plans(probed: Probed) -> bool:
    """Whether it plans devices that are not here."""
    return probed.platform is not None and type(probed.platform).plan is not Platform.plan


def _has(probed: Probed, device: str) -> bool:
    return isinstance(probed.result, Found) and any(info.name == device for info in probed.result.devices)


def find(device: str) -> tuple[Probed, str]:
    """NAME or NAME:INDEX -> the platform, and INDEX or "". Raises PlatformError for a name that is not installed."""
    plugins = {p.name: p for p in discover()}
    name, index = split(device, plugins)
    if name not in plugins:
        known = ", ".join(sorted(plugins)) or "none"
        raise PlatformError(
            f"there is no device {name!r}; installed: {known}: choose one of these, or install the platform that has it"
        )
    return probe(plugins[name]), index


def plan_device(device: str) -> Planned | None:
    """NAME:WHICH of a platform that plans devices which are not here; None for all else. Raises PlatformError for one
    that it does not know, or cannot plan here."""
    plugins = {p.name: p for p in discover()}
    name, which = split(device, plugins)
    if name not in plugins or not which or which.isdecimal():
        return None
    probed = probe(plugins[name])
    if probed.platform is None or not _plans(probed) or _has(probed, device):
        return None
    try:
        with printing_to_stderr():
            return probed.platform.plan(which)
    except (DeviceError, NotSupported) as error:
        raise PlatformError(f"{device} cannot be planned: {one_line(str(error))}") from error
    except Exception as error:  # of a vendor's library, which knows no contract
        raise PlatformError(f"{device} cannot be planned: {first_line(error)}") from error


def split(device: str, names: Container[str]) -> tuple[str, str]:
    """NAME:INDEX in two. tpu:emulated is the platform tpu-emulated: one that stands in for another is a plugin of its
    own, since the other one is absent where it is wanted."""
    name, _, index = device.partition(":")
    return (f"{name}-{index}", "") if index and f"{name}-{index}" in names else (name, index)


def take(probed: Probed, index: int, reason: str) -> Choice:
    """Device `index` of a platform that has found it."""
    assert isinstance(probed.result, Found)
    assert probed.platform is not None
    return Choice(probed.platform, index, probed.result.devices[index], reason, probed.plugin.distribution)


def index_of(found: Found, name: str, index: str) -> int:
    count = len(found.devices)
    if count == 0:
        raise PlatformError(f"{name} has found no device; see anychip devices, or name another with --device")
    if not index:
        return 0
    for i, info in enumerate(found.devices):
        if info.name == f"{name}:{index}":
            return i
    if index.isdecimal() and int(index) < count:
        return int(index)
    names = ", ".join(i.name for i in found.devices)
    raise PlatformError(f"there is no device {name}:{index}; {name} has {count}: {names}")


def _choose_best() -> Choice:
    tried: list[str] = []
    for plugin in discover():
        probed = probe(plugin)
        if isinstance(probed.result, Broken):
            raise PlatformError(f"{explain(probed)}; or name another device with --device")
        if isinstance(probed.result, Found) and probed.result.devices:
            return take(probed, 0, "; ".join([*tried, f"{plugin.name} is the first choice of what is here"]))
        tried.append(explain(probed))
    raise PlatformError(
        "no device was found: " + ("; ".join(tried) or "no platform is installed (pip install anychip[cpu])")
    )


def explain(probed: Probed) -> str:
    """One line on a platform that cannot be used."""
    result, name = probed.result, probed.plugin.name
    if isinstance(result, Broken):
        return f"{name} is broken: {one_line(result.reason)}; to mend it: {one_line(result.mend)}"
    if isinstance(result, Absent):
        return f"{name} is absent: {one_line(result.reason)}"
    return f"{name} has {len(result.devices)} devices"


def providers_of(platform: Platform) -> tuple[Provider, ...]:
    """Raises PlatformError where the platform cannot say."""
    try:
        return isolated(platform.providers)
    except (Exception, SystemExit) as error:  # of a vendor's code
        raise PlatformError(
            f"{type(platform).__name__} cannot say which providers it has: {first_line(error)}"
        ) from error


def check_provider(choice: Choice, provider: str) -> None:
    """Raises PlatformError for a provider that the device does not have, or that cannot be used here."""
    name, known = choice.info.name, {p.name: p for p in providers_of(choice.platform)}
    if provider not in known:
        has = f"it has {', '.join(known)}: choose one of these, or" if known else "it has none:"
        raise PlatformError(f"{name} has no provider {provider!r}; {has} leave provider out")
    broken = known[provider].broken
    if broken is not None:
        raise PlatformError(
            f"provider {provider} cannot be used: {one_line(broken.reason)}; to mend it: {one_line(broken.mend)}"
        )


def open_device(choice: Choice, threads: int | None, provider: str | None = None) -> Device | StepPlugin:
    """provider: whose ops to take in place of the platform's own, see `Platform.providers`. Raises PlatformError where
    the device cannot be opened, has no such provider, or reports memory that nothing can be kept in."""
    name = choice.info.name
    if provider is not None:
        check_provider(choice, provider)
    try:
        with printing_to_stderr():
            if provider is None:
                device = choice.platform.open(choice.index, threads=threads)
            else:
                device = choice.platform.open_with(provider, choice.index, threads=threads)
    except (DeviceError, NotSupported) as error:
        raise PlatformError(f"{name} cannot be opened: {one_line(str(error))}") from error
    except Exception as error:  # of a vendor's library, which knows no contract
        raise PlatformError(f"{name} cannot be opened: {first_line(error)}") from error
    if not isinstance(device, Device | StepPlugin):
        raise PlatformError(f"{name} cannot be opened: it gave {device!r}, no Device and no StepPlugin")
    try:
        memory_of(device, choice)
    except PlatformError:
        device.close()
        raise
    return device


def memory_of(device: Device | StepPlugin, choice: Choice) -> Memory:
    """Measured now. Raises PlatformError for what cannot be: none at all, or more free than there is."""
    name, maker = choice.info.name, choice.distribution
    try:
        memory = device.allocator.memory() if isinstance(device, Device) else device.memory()
        sound = 0 <= memory.free <= memory.total and memory.total > 0
    except Exception as error:  # of a vendor's library
        raise PlatformError(f"{name} cannot tell its memory: {first_line(error)}; {maker} has to mend it") from error
    if not sound:
        raise PlatformError(
            f"{name} reports {memory.free} bytes free of {memory.total} in all; expected more than 0 in all, and no "
            f"more free than that: check the device and its driver, or {upgrade(maker)}"
        )
    return memory
