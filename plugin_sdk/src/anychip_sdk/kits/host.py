"""Memory of the host, as far as this process may use it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from anychip_sdk.contract import Memory

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def host_memory() -> Memory:
    """What Linux calls available, under the limit of the cgroup (v2) if it has one. Where there is no /proc/meminfo
    (macOS), half of the physical memory counts as free."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total // 2
    with suppress(OSError, KeyError):  # where this is not Linux
        free = int(_fields(_MEMINFO)["MemAvailable:"]) * 1024
    with suppress(OSError, ValueError):  # where there is no cgroup v2, or no limit ("max")
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text()) - _reclaimable()
        total, free = min(total, limit), min(free, max(0, limit - used))
    return Memory(free=free, total=total)


def _reclaimable() -> int:
    """Bytes of file cache that the kernel drops on demand. They count as used by the cgroup, and a checkpoint that
    was just read through a memory map fills them."""
    try:
        return int(_fields(_CGROUP / "memory.stat")["inactive_file"])
    except (OSError, KeyError):
        return 0


def _fields(path: Path) -> dict[str, str]:
    """First word of each line -> second word."""
    words = (line.split() for line in path.read_text().splitlines())
    return {w[0]: w[1] for w in words if len(w) > 1}
