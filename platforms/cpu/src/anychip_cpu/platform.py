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

OLDEST_TORCH = (2, 8)
INSTALL = 'pip install "torch>=2.8"'
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd")
CPUINFO = Path("/proc/cpuinfo")


class CpuPlatform(Platform):
    def probe(self) -> Found | Broken:
        """Looks at metadata only: importing torch takes seconds."""
        if find_spec("torch") is None:
            return Broken("torch is not installed", INSTALL)
        try:
            version = metadata.version("torch")
        except metadata.PackageNotFoundError:
            return Broken("torch is there but not installed as a distribution: it has no version", INSTALL)
        if Version(version).release < OLDEST_TORCH:
            return Broken(f"torch is {version}, older than {'.'.join(map(str, OLDEST_TORCH))}", INSTALL)
        fields = _cpuinfo()
        flags = frozenset(fields.get("flags", fields.get("Features", "")).split())
        details = {"torch": version, "cores": str(_cores()), "isa": " ".join(f for f in ISA_FLAGS if f in flags)}
        name = fields.get("model name") or host.processor() or host.machine()
        return Found((DeviceInfo(name="cpu", description=f"{name}, {_cores()} cores", details=details),))

    def open(self, index: int = 0, *, threads: int | None = None) -> CpuDevice:
        """threads: None takes one for each core that this process may run on."""
        found = self.probe()
        if isinstance(found, Broken):
            raise DeviceError(f"{found.reason}; to mend it: {found.mend}")
        if index != 0:
            raise DeviceError(f"there is no device cpu:{index}; there is one, cpu:0")
        if threads is not None and not 1 <= threads <= _cores():
            raise DeviceError(f"threads is {threads}, expected 1 to {_cores()}: the cores this process may run on")
        from anychip_cpu.device import CpuDevice

        return CpuDevice(found.devices[0], threads or _cores())


def _cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """Fields of the last processor that Linux lists; empty elsewhere."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
