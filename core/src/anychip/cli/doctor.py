"""anychip doctor: what a bug report needs, as text or as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON, sizes in bytes")


def run(options: argparse.Namespace) -> None:
    import json

    from anychip.platforms.doctor import examine

    found = examine()
    print(json.dumps(found, indent=2) if options.json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for title in ("versions", "system"):
        yield title
        yield from (f"  {key:20} {value}" for key, value in found[title].items())
    yield "platforms"
    for platform in found["platforms"]:
        yield f"  {platform['name']:20} {platform['state']}  ({platform['distribution']})"
        yield from (f"    {key}: {platform[key]}" for key in ("reason", "mend") if platform[key])
        for device in platform["devices"]:
            yield from (f"    {line}" for line in _device(device))
    cache = found["model cache"]
    yield "model cache"
    yield f"  {cache['path']}: {_room(cache)}"


def _device(device: dict[str, Any]) -> Iterator[str]:
    yield f"{device['name']}: {device['description']}"
    yield from (f"  {key}: {value}" for key, value in device["details"].items())
    if device["problem"]:
        yield f"  problem: {device['problem']}"
        return
    yield f"  memory: {_room(device['memory'])}"
    yield f"  weights in: {', '.join(device['weights in'])}"
    yield f"  ops on reference code: {', '.join(device['reference ops']) or 'none'}"


def _room(sizes: dict[str, int]) -> str:
    from anychip.sizes import gib

    return f"{gib(sizes['free'])} free of {gib(sizes['total'])}"
