"""The platform `cpu`: every machine with torch has one."""

from __future__ import annotations

import os
import platform as host
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from anychip_sdk.contract import Broken, DeviceError, DeviceInfo, Found, Platform
from packaging.version import Version

if TYPE_CHECKING:
    from anychip_cpu.device import CpuDevice

OLDEST_TORCH = Version("2.8")
INSTALL = 'pip install "torch>=2.8"'
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd")


class CpuPlatform(Platform):
    def probe(self) -> Found | Broken:
        """Looks at metadata only: importing torch takes seconds."""
        if find_spec("torch") is None:
            return Broken("torch is not installed", INSTALL)
        version = metadata.version("torch")
        if Version(version) < OLDEST_TORCH:
            return Broken(f"torch is {version}, older than {OLDEST_TORCH}", INSTALL)
        name, flags = _processor()
        details = {"torch": version, "cores": str(_cores()), "isa": " ".join(f for f in ISA_FLAGS if f in flags)}
        return Found((DeviceInfo(name="cpu", description=f"{name}, {_cores()} cores", details=details),))

    def open(self, index: int = 0, *, threads: int | None = None) -> CpuDevice:
        from anychip_cpu.device import CpuDevice

        found = self.probe()
        if isinstance(found, Broken):
            raise DeviceError(f"{found.reason}; to mend it: {found.mend}")
        return CpuDevice(found.devices[index], threads or _cores())


def _cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> tuple[str, frozenset[str]]:
    """Model name and feature flags, as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return host.processor() or host.machine(), frozenset()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = frozenset(fields.get("flags", fields.get("Features", "")).split())
    return fields.get("model name", host.machine()), flags
