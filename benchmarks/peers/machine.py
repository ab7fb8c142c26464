"""What this machine is and what it can do at most."""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from peers import runner

LARGE = 512 << 20
"""Bytes that are summed for the read bandwidth: far more than any cache."""
SIZE = 2048
SECONDS = 2.0
"""Given to each figure; the best run counts."""
EXTENSIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "i8mm", "bf16")


def describe() -> dict[str, Any]:
    """The processor, its cores that may be used, and its instruction sets."""
    name = _field("model name") or platform.processor() or platform.machine()
    # A virtual machine's processor may be named after its maker alone.
    kind = [
        f"{word} {_field(field)}" for word, field in (("family", "cpu family"), ("model", "model")) if _field(field)
    ]
    return {
        "processor": ", ".join([name, *kind]),
        "cores": runner.threads(),
        "extensions": [name for name in EXTENSIONS if name in (_field("flags") or _field("Features")).split()],
        "python": platform.python_version(),
    }


def reader() -> Callable[[float], float]:
    """What gives GB/s: the best sum over LARGE bytes in so many seconds."""
    import torch

    torch.set_num_threads(runner.threads())
    large = torch.ones(LARGE // 4)
    return lambda seconds: round(LARGE / _best(large.sum, seconds) / 1e9, 2)


def measure() -> dict[str, Any]:
    """read_gb_s: see `reader`. gop_s: square products of SIZE in each format."""
    import torch
    from anychip_cpu import onednn

    found = {"read_gb_s": reader()(SECONDS)}
    a = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    half, whole = a.bfloat16(), (a * 16).to(torch.int8)
    products: dict[str, list[Callable[[], Any]]] = {
        "float32": [lambda: a @ a],
        "bfloat16": [lambda: half @ half],
        "int8": [lambda: torch._int_mm(whole, whole)],
    }
    if onednn.can_pack(torch.float32):
        # The plain product is MKL's, which reaches less than half of some processors' peak.
        packed = onednn.packed(a)
        products["float32"].append(lambda: onednn.product(a, packed, None))
    peaks = {name: 2 * SIZE**3 / min(map(_best, ways)) / 1e9 for name, ways in products.items()}
    return {**found, "gop_s": {name: round(peak, 1) for name, peak in peaks.items()}}


def better(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The higher of each figure of two measurements."""
    peaks = {name: max(speed, second["gop_s"][name]) for name, speed in first["gop_s"].items()}
    return {"read_gb_s": max(first["read_gb_s"], second["read_gb_s"]), "gop_s": peaks}


@dataclass(frozen=True)
class Times:
    """Seconds of processor time since the machine started, over all cores; ours: of children that have ended."""

    busy: float
    whole: float
    ours: float


def times() -> Times | None:
    """None where the system does not tell."""
    if sys.platform != "linux":
        return None
    tick = os.sysconf("SC_CLK_TCK")
    # user, nice, system, idle, iowait, irq, softirq, steal; guest's time is in user's already
    spent = [int(word) / tick for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    mine = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Times(sum(spent) - spent[3] - spent[4], sum(spent), mine.ru_utime + mine.ru_stime)


def others(before: Times | None, after: Times | None) -> float | None:
    """The share of the processor that neither idled nor worked for a child of ours."""
    if before is None or after is None or after.whole <= before.whole:
        return None
    busy = (after.busy - before.busy) - (after.ours - before.ours)
    return round(max(0.0, busy / (after.whole - before.whole)), 3)


def _field(name: str) -> str:
    """Of the first processor in /proc/cpuinfo; empty where there is none."""
    if sys.platform != "linux":
        return ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.split(":")[0].strip() == name:
            return line.split(":", 1)[1].strip()
    return ""


def _best(run: Callable[[], Any], given: float = SECONDS) -> float:
    """Seconds of the fastest run."""
    fastest, end = float("inf"), perf_counter() + given
    while perf_counter() < end:
        start = perf_counter()
        run()
        fastest = min(fastest, perf_counter() - start)
    return fastest
