"""Memory of the host, as far as this process may use it."""

from __future__ import annotations

import os
from pathlib import Path

from anychip_sdk.contract import Memory

_CGROUP = Path("/sys/fs/cgroup")


def host_memory() -> Memory:
    """What Linux calls available, under the cgroup's limit; elsewhere half of the physical memory counts as free."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total // 2
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        pass  # not Linux
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        total, free = min(total, limit), min(free, max(0, limit - used))
    except (OSError, ValueError):
        pass  # no cgroup v2, or no limit ("max")
    return Memory(free=free, total=total)
