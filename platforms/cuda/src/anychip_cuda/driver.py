"""NVIDIA's driver, asked directly: it answers in milliseconds, takes no memory on a card, and sees what torch would."""

from __future__ import annotations

from ctypes import CDLL, byref, c_char, c_int, c_size_t
from dataclasses import dataclass
from pathlib import Path

LIBRARY = "libcuda.so.1"
PCI = Path("/sys/bus/pci/devices")
NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE"""

_NVIDIA = "0x10de"
_DISPLAY = "0x03"
"""PCI class of display controllers, 3D ones included."""
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR"""


class NoDriver(Exception):  # noqa: N818 - a state of the machine, which the probe turns into words
    """There is no driver library."""


class DriverError(Exception):
    """The driver is there and refused."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call} failed with CUDA error {code}")
        self.code = code


@dataclass(frozen=True)
class Card:
    """`index` as torch counts: CUDA_VISIBLE_DEVICES is heeded. `memory` in bytes."""

    index: int
    name: str
    capability: tuple[int, int]
    memory: int


@dataclass(frozen=True)
class Driver:
    """`cuda`: the newest CUDA it runs, as (major, minor)."""

    cuda: tuple[int, int]
    cards: tuple[Card, ...]


def ask() -> Driver:
    """Raises NoDriver, or DriverError."""
    try:
        library = CDLL(LIBRARY)
    except OSError as error:
        raise NoDriver from error

    def call(name: str, *arguments: object) -> None:
        code = getattr(library, name)(*arguments)
        if code:
            raise DriverError(name, code)

    call("cuInit", 0)
    version, count = c_int(), c_int()
    call("cuDriverGetVersion", byref(version))
    call("cuDeviceGetCount", byref(count))
    cards = []
    for index in range(count.value):
        device, major, minor, memory, name = c_int(), c_int(), c_int(), c_size_t(), (c_char * 256)()
        call("cuDeviceGet", byref(device), index)
        call("cuDeviceGetName", name, len(name), device)
        call("cuDeviceTotalMem_v2", byref(memory), device)
        call("cuDeviceGetAttribute", byref(major), _MAJOR, device)
        call("cuDeviceGetAttribute", byref(minor), _MINOR, device)
        cards.append(Card(index, name.value.decode(errors="replace"), (major.value, minor.value), memory.value))
    return Driver((version.value // 1000, version.value % 1000 // 10), tuple(cards))


def card_on_the_bus() -> bool:
    """Whether Linux lists an NVIDIA card, with or without a driver."""
    return any(
        _read(device / "vendor") == _NVIDIA and _read(device / "class").startswith(_DISPLAY) for device in PCI.glob("*")
    )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
