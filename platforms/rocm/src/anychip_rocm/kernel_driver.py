"""AMD's kernel driver (KFD), read from sysfs: no library is needed, and nothing is taken on a card."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NODES = Path("/sys/class/kfd/kfd/topology/nodes")
DEVICE = Path("/dev/kfd")


@dataclass(frozen=True)
class Card:
    """`index` as torch counts. `arch`: as compilers call it ("gfx942"). `memory` in bytes."""

    index: int
    arch: str
    memory: int
    units: int
    """compute units"""


def cards() -> tuple[Card, ...]:
    """Every card that the environment leaves visible; empty without the driver."""
    nodes = sorted(NODES.glob("*"), key=lambda path: int(path.name)) if NODES.is_dir() else []
    found = [(node, fields) for node in nodes if (fields := _numbers(node / "properties")).get("simd_count")]
    found = _chosen(found, os.environ.get("ROCR_VISIBLE_DEVICES"))
    # These two count among those that are left; the second is read where the first is not set.
    found = _chosen(found, os.environ.get("HIP_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES")))
    return tuple(
        Card(i, arch(f["gfx_target_version"]), _memory(node), f["simd_count"] // max(1, f.get("simd_per_cu", 1)))
        for i, (node, f) in enumerate(found)
    )


def may_open() -> bool:
    """Whether this user may use the driver."""
    return os.access(DEVICE, os.R_OK | os.W_OK)


def arch(version: int) -> str:
    """90402 -> gfx942: major, minor and stepping, the last two in hexadecimal."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _chosen(found: list[tuple[Path, dict[str, int]]], value: str | None) -> list[tuple[Path, dict[str, int]]]:
    """By a list of numbers, up to the first that is none of a card's, as the runtime reads it. A list with names
    (UUIDs) leaves all."""
    if value is None:
        return found
    numbers = [word.strip() for word in value.split(",")] if value.strip() else []
    if any(not word.lstrip("-").isdigit() for word in numbers):
        return found
    chosen = []
    for number in map(int, numbers):
        if not 0 <= number < len(found):
            break
        chosen.append(found[number])
    return chosen


def _memory(node: Path) -> int:
    banks = (_numbers(bank / "properties").get("size_in_bytes", 0) for bank in (node / "mem_banks").glob("*"))
    return sum(banks)


def _numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a number; empty where the file cannot be read, as for a card of another container."""
    try:
        words = (line.split() for line in path.read_text().splitlines())
        return {w[0]: int(w[1]) for w in words if len(w) == 2 and w[1].isdigit()}
    except OSError:
        return {}
