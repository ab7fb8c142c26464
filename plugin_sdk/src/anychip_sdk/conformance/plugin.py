"""The pytest plugin of the suite: its options, what is left out, and a record of every check.

It is registered as a pytest11 entry point, so vendors can run the suite within their own. It touches no other tests."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from anychip_sdk.conformance.levels import Tier

SETTINGS = pytest.StashKey["Settings"]()
DRAW = pytest.StashKey[Any]()
"""Where the `lab` fixture leaves a check's inputs, to be saved if it fails."""
_RESULT = pytest.StashKey[dict[str, Any]]()


@dataclass(frozen=True)
class Settings:
    """What the suite was asked for. `group`: MODULE:FUNCTION that opens a rank of several, see `ranks.py`."""

    device: str | None
    plugin: str | None
    group: str | None
    tier: Tier
    seed: int
    out: Path | None
    inputs: Path | None
    provider: str | None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("anychip", "conformance of an anychip device")
    group.addoption("--anychip-device", metavar="NAME", help="the installed device to test")
    group.addoption("--anychip-plugin", metavar="MODULE:FUNCTION", help="a plugin that is not installed")
    group.addoption("--anychip-group", metavar="MODULE:FUNCTION", help="opens one rank of a group of devices")
    group.addoption("--anychip-tier", choices=("quick", "full", "certify"), default="full")
    group.addoption("--anychip-seed", type=int, default=0, help="seed of all inputs")
    group.addoption("--anychip-out", metavar="DIR", type=Path, help="where records and failed inputs go")
    group.addoption("--anychip-provider", metavar="NAME", help="take ops from this provider of the device")
    group.addoption("--anychip-inputs", metavar="FILE", type=Path, help="repeat with these saved inputs")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "anychip(since, level, profile, tier, claim): a check of the conformance suite")
    config.addinivalue_line("markers", "anychip_tier(name): from which tier on a parameter is run")
    names = ("device", "plugin", "group", "tier", "seed", "out", "inputs", "provider")
    config.stash[SETTINGS] = Settings(**{name: config.getoption(f"anychip_{name}") for name in names})


def check_id(nodeid: str) -> str:
    """areas/test_ops.py::test_linear[float32] -> ops/linear[float32]"""
    path, _, name = nodeid.partition("::")
    return f"{Path(path).stem.removeprefix('test_')}/{name.rpartition('::')[2].removeprefix('test_')}"


def _ours(item: pytest.Item) -> bool:
    return item.get_closest_marker("anychip") is not None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    from anychip_sdk.conformance.levels import TIERS
    from anychip_sdk.conformance.marks import tier_of

    settings = config.stash[SETTINGS]
    if settings.device is None and settings.plugin is None and any(_ours(item) for item in items):
        raise pytest.UsageError("the conformance suite tests a device: give --anychip-device NAME")
    most = TIERS.index(settings.tier)
    later = [item for item in items if _ours(item) and TIERS.index(tier_of(item)) > most]
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]
    _record(settings, {"collected": [check_id(item.nodeid) for item in items if _ours(item)]})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _ours(item):
        marker = item.get_closest_marker("anychip")
        assert marker is not None
        item.stash[_RESULT] = {"id": check_id(item.nodeid), "outcome": "passed", "seconds": 0.0, **marker.kwargs}
        _record(item.config.stash[SETTINGS], {"start": check_id(item.nodeid), **marker.kwargs})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report: Any = yield
    if not _ours(item) or _RESULT not in item.stash:
        return report
    result, settings = item.stash[_RESULT], item.config.stash[SETTINGS]
    result["seconds"] = round(result["seconds"] + report.duration, 3)
    if report.skipped:
        result.update(outcome="skipped", message=_line(call))
    elif report.failed:
        result.update(outcome="failed", message=_line(call), trace=str(report.longrepr)[-6000:])
        result["inputs"] = _save(item, settings)
    if report.when == "teardown":
        _record(settings, {**result, **dict(item.user_properties)})
    return report


def _line(call: pytest.CallInfo[None]) -> str:
    error = call.excinfo.value if call.excinfo else None
    text = getattr(error, "msg", None) or str(error)
    first = next((line for line in text.splitlines() if line.strip()), "no message")
    return first if isinstance(error, AssertionError | pytest.skip.Exception) else f"{type(error).__name__}: {first}"


def _save(item: pytest.Item, settings: Settings) -> str | None:
    """The inputs of a failed check, for `anychip conformance repro`."""
    draw = item.stash.get(DRAW, None)
    if draw is None or settings.out is None or not draw.arrays:
        return None
    import numpy as np

    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in check_id(item.nodeid)) + ".npz"
    folder = settings.out / "failures"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / name, **draw.arrays)
    return f"failures/{name}"


def _record(settings: Settings, entry: dict[str, Any]) -> None:
    """A line at once: it is there even if the process dies in the next check."""
    if settings.out is not None:
        from anychip_sdk.conformance.runner import RECORDS

        settings.out.mkdir(parents=True, exist_ok=True)
        with (settings.out / RECORDS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
