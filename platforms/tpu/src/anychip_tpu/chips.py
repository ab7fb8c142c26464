"""What is known of each kind of TPU, and which of them this machine has. No framework is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from anychip_sdk.contract import NotSupported

SYS_PCI = Path("/sys/bus/pci/devices")
DEV = Path("/dev")
PROC = Path("/proc")
GOOGLE = "0x1ae0"


@dataclass(frozen=True)
class Chip:
    """Published rates of one chip (cloud.google.com/tpu/docs/system-architecture-tpu-vm). `hbm`: bytes;
    `bandwidth`: bytes of HBM per second; `flops`: bfloat16 operations per second; `link`: bytes per second that one
    chip sends to its neighbours, all links together."""

    name: str
    hbm: int
    bandwidth: float
    flops: float
    link: float


CHIPS = {
    "v4": Chip("v4", 32 * 2**30, 1.2e12, 275e12, 300e9),
    "v5e": Chip("v5e", 16 * 2**30, 819e9, 197e12, 200e9),
    "v5p": Chip("v5p", 95 * 2**30, 2.765e12, 459e12, 600e9),
    "v6e": Chip("v6e", 32 * 2**30, 1.64e12, 918e12, 448e9),
}
SLICES = {1: "2x2", 2: "2x2", 4: "2x2", 8: "2x4"}
"""The topology that holds as many chips; of the smallest one, fewer chips may be used."""
PCI_IDS = {"0x005e": "v4", "0x0062": "v5p", "0x0063": "v5e", "0x006f": "v6e"}
"""Of Google's PCI devices, those that are chips of a kind in CHIPS."""


def planned(which: str) -> tuple[str, int]:
    """KIND-COUNT in two, as in v5e-4. Raises NotSupported, saying what there is."""
    kind, _, count = which.partition("-")
    if kind not in CHIPS or count not in map(str, SLICES):
        kinds, counts = ", ".join(CHIPS), ", ".join(map(str, SLICES))
        raise NotSupported(
            f"there is no plan for {which!r}; expected one of {kinds}, and one of {counts} chips, as v5e-4"
        )
    return kind, int(count)


def attached() -> tuple[str, ...]:
    """The kind of each TPU chip on this machine's PCI bus; empty where there is no such bus to look at."""
    found = []
    for device in sorted(SYS_PCI.glob("*")):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "device"))
        except OSError:
            continue
        if vendor == GOOGLE and kind in PCI_IDS:
            found.append(PCI_IDS[kind])
    return tuple(found)


def device_files() -> tuple[Path, ...]:
    """The files through which chips are opened: /dev/accelN (v4), /dev/vfio/N (later ones)."""
    numbered = (*DEV.glob("accel[0-9]*"), *(DEV / "vfio").glob("[0-9]*"))
    return tuple(sorted(numbered))


def holder() -> tuple[int, str] | None:
    """Another process that has a chip open: its id and name, as far as this user may look."""
    files = {str(path) for path in device_files()}
    if not files:
        return None
    for process in PROC.glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            opened = {os.readlink(fd) for fd in (process / "fd").iterdir()}
            if opened & files:
                return int(process.name), (process / "comm").read_text().strip()
        except OSError:  # it has ended, or is another user's
            continue
    return None
