"""What can be said of a platform and its devices, for `anychip devices` and `anychip doctor`."""

from __future__ import annotations

from dataclasses import dataclass

from anychip_sdk.contract import Absent, Broken, Capabilities, DeviceInfo, Found, Memory, Provider

from anychip.errors import PlatformError
from anychip.platforms.discovery import first_line, one_line, upgrade
from anychip.platforms.op_table import OpEntry, op_table
from anychip.platforms.selection import Probed, memory_of, open_device, providers_of, take


@dataclass(frozen=True)
class State:
    """`word`: found, absent or broken. `reason`: one line, empty where found. `mend`: the command that mends it."""

    word: str
    reason: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Inspection:
    """One device, opened and closed again. `problem`: one line on why that did not work; the rest is None then."""

    info: DeviceInfo
    problem: str = ""
    memory: Memory | None = None
    claims: Capabilities | None = None
    ops: tuple[OpEntry, ...] = ()
    providers: tuple[Provider, ...] = ()


def state(probed: Probed) -> State:
    """A platform that has looked and found no device counts as absent."""
    result = probed.result
    if isinstance(result, Broken):
        return State("broken", one_line(result.reason), one_line(result.mend))
    if isinstance(result, Absent):
        return State("absent", one_line(result.reason))
    return State("found") if result.devices else State("absent", "its probe found no device")


def inspect_device(probed: Probed, index: int, provider: str | None = None) -> Inspection:
    """provider: as `open_device` takes it. Never raises for a plugin's sake."""
    assert isinstance(probed.result, Found)
    info = probed.result.devices[index]
    choice = take(probed, index, "listed")
    try:
        device = open_device(choice, None, provider)
    except PlatformError as error:
        return Inspection(info, str(error))
    try:
        memory, providers = memory_of(device, choice), providers_of(choice.platform)
        found = Inspection(info, memory=memory, claims=device.capabilities, ops=op_table(device), providers=providers)
        device.close()
        return found
    except PlatformError as error:
        return Inspection(info, str(error))
    except Exception as error:  # of a vendor's class that lacks a part
        maker = probed.plugin.distribution
        return Inspection(
            info, f"{info.name} of {maker} is not whole: {first_line(error)}; to mend it: {upgrade(maker)}"
        )
