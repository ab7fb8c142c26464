"""What a bug report needs: versions, system, every plugin's state, every device's memory, room for models."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from anychip_sdk.contract import CONTRACT_VERSION, Found
from packaging.requirements import InvalidRequirement, Requirement

from anychip import __version__
from anychip.platforms.inspection import inspect_device, state
from anychip.platforms.selection import Probed, probe_all

CPUINFO = Path("/proc/cpuinfo")
FRAMEWORKS = ("numpy", "torch", "jax")
"""Looked up although no platform may ask for them: they are what kits are written in."""


def examine() -> dict[str, Any]:
    """Plain data, ready for JSON; sizes in bytes. Devices are opened and closed again. Never raises for a plugin's
    sake."""
    probed = probe_all()
    return {
        "versions": _versions(probed),
        "system": _system(),
        "platforms": [_platform(p) for p in probed],
        "model cache": _cache(),
    }


def _versions(probed: list[Probed]) -> dict[str, str]:
    """Installed versions, from metadata alone: nothing is imported."""
    makers = dict(p.plugin.distribution.split(maxsplit=1) for p in probed)
    asked = sorted({name for maker in makers for name in _requirements(maker)} | set(FRAMEWORKS))
    own = {"python": platform.python_version(), "anychip": __version__, "contract": str(CONTRACT_VERSION)}
    return {**own, **makers, **{name: _version(name) for name in asked if name not in makers}}


def _requirements(distribution: str) -> Iterator[str]:
    """Names of what a distribution needs, without its extras."""
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:  # a plugin without a distribution
        return
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # somebody's metadata is no affair of ours
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _system() -> dict[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"os": platform.platform(), "machine": platform.machine(), "cpu": _cpu(), "cores": str(usable)}


def _cpu() -> str:
    """Linux's name of the processor; what Python knows elsewhere."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name")
    return next(names, platform.processor() or platform.machine())


def _platform(probed: Probed) -> dict[str, Any]:
    found = state(probed)
    devices = len(probed.result.devices) if isinstance(probed.result, Found) else 0
    return {
        "name": probed.plugin.name,
        "distribution": probed.plugin.distribution,
        "state": found.word,
        "reason": found.reason,
        "mend": found.mend,
        "devices": [_device(probed, index) for index in range(devices)],
    }


def _device(probed: Probed, index: int) -> dict[str, Any]:
    found = inspect_device(probed, index)
    memory = found.memory and {"free": found.memory.free, "total": found.memory.total}
    return {
        "name": found.info.name,
        "description": " ".join(found.info.description.split()),
        "details": {str(key): str(value) for key, value in found.info.details.items()},
        "problem": found.problem,
        "memory": memory,
        "weights in": list(found.claims.weight_dtypes) if found.claims else [],
        "reference ops": [entry.op for entry in found.ops if entry.reference],
    }


def _cache() -> dict[str, Any]:
    """Where models from the hub go, and the room there."""
    from huggingface_hub import constants

    path = Path(constants.HF_HUB_CACHE)
    there = next(p for p in (path, *path.parents) if p.exists())
    room = shutil.disk_usage(there)
    return {"path": str(path), "free": room.free, "total": room.total}
