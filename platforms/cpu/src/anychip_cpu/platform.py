"""The platform `cpu`: every machine with torch has one."""

from __future__ import annotations

import math
import os
import platform as host
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from anychip_sdk.contract import Broken, DeviceError, DeviceInfo, Found, Platform, Provider
from packaging.version import Version

from anychip_cpu.library import library_path
from anychip_cpu.providers import IPEX, check, providers

if TYPE_CHECKING:
    from anychip_cpu.device import CpuDevice

OLDEST_TORCH = (2, 8)
INSTALL = 'pip install "torch>=2.8"'
NO_KERNELS = (
    "missing: no C++ compiler was found when anychip-cpu was installed, so torch's do all the work, more slowly and "
    "without quantize; install g++ or clang++, then anychip-cpu again (pip install --force-reinstall --no-deps)"
)
ISA_FLAGS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16"),
)
"""Of Linux's names for what the kernels have variants for."""
CPUINFO = Path("/proc/cpuinfo")
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


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
        isa = " ".join(f for f in ISA_FLAGS if f in flags)
        path = library_path()
        kernels = NO_KERNELS if path is None else str(path)
        details = {"torch": version, "cores": str(_cores()), "isa": isa, "kernels": kernels}
        name = fields.get("model name") or host.processor() or host.machine()
        return Found((DeviceInfo(name="cpu", description=f"{name}, {_cores()} cores", details=details),))

    def open(self, index: int = 0, *, threads: int | None = None) -> CpuDevice:
        """threads: None takes one for each core that this process may run on, and no more than its cgroup's share of
        time comes to: beyond it all threads would stop together, many times a second."""
        return self._open(index, threads, None)

    def providers(self) -> tuple[Provider, ...]:
        return providers()

    def open_with(self, provider: str, index: int = 0, *, threads: int | None = None) -> CpuDevice:
        check(provider)
        return self._open(index, threads, provider)

    def _open(self, index: int, threads: int | None, provider: str | None) -> CpuDevice:
        found = self.probe()
        if isinstance(found, Broken):
            raise DeviceError(f"{found.reason}; to mend it: {found.mend}")
        if index != 0:
            raise DeviceError(f"there is no device cpu:{index}; there is one, cpu:0")
        if threads is not None and not 1 <= threads <= _cores():
            raise DeviceError(f"threads is {threads}, expected 1 to {_cores()}: the cores this process may run on")
        from anychip_cpu.device import CpuDevice

        return CpuDevice(found.devices[0], threads or min(_cores(), _quota()), ipex=provider == IPEX)


def _cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> int:
    """Whole cores that the cgroup (v2) grants the time of, as `docker run --cpus` sets it."""
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup v2, or no limit ("max")
        return sys.maxsize


def _cpuinfo() -> dict[str, str]:
    """Fields of the last processor that Linux lists; empty elsewhere."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
