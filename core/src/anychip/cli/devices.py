"""anychip devices: what is here, what is not, and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from anychip.errors import PlatformError

if TYPE_CHECKING:
    from anychip.platforms.inspection import Inspection
    from anychip.platforms.selection import Probed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("device", nargs="?", metavar="NAME[:INDEX]", help="only this platform, or this device of it")
    parser.add_argument("-v", "--verbose", action="store_true", help="details, memory, and where each op comes from")
    parser.add_argument("--provider", help="with -v: as if ops were taken from this library")


def run(options: argparse.Namespace) -> None:
    from anychip.platforms.selection import find, probe_all

    if options.provider is not None and not (options.verbose and options.device):
        raise PlatformError(f"--provider {options.provider} is of one device; give its NAME and -v as well")
    if options.device is None:
        for probed in probe_all():
            _list(probed, "", options.verbose)
    else:
        probed, index = find(options.device)
        if options.provider is not None:
            _check(probed, index, options.provider)
        _list(probed, index, options.verbose, options.provider)


def _check(probed: Probed, only: str, provider: str) -> None:
    """Raises PlatformError where the platform has no device, or not this one, or it cannot take the provider's ops."""
    from anychip_sdk.contract import Found

    from anychip.platforms.selection import check_provider, explain, index_of, take

    if not isinstance(probed.result, Found):
        raise PlatformError(explain(probed))
    check_provider(take(probed, index_of(probed.result, probed.plugin.name, only), "listed"), provider)


def _list(probed: Probed, only: str, verbose: bool, provider: str | None = None) -> None:
    """only: the index of one device, or "" for all. Raises PlatformError where there is no such device."""
    from anychip_sdk.contract import Found

    from anychip.platforms.inspection import inspect_device
    from anychip.platforms.selection import index_of

    if not isinstance(probed.result, Found) or not probed.result.devices:
        print(_unusable(probed), flush=True)
        return
    wanted = index_of(probed.result, probed.plugin.name, only) if only else None
    for index, info in enumerate(probed.result.devices):
        if wanted in (None, index):
            description = " ".join(info.description.split())
            print(f"{info.name:12} found   {description}  ({probed.plugin.distribution})", flush=True)
            if verbose:
                _show(inspect_device(probed, index, provider))


def _unusable(probed: Probed) -> str:
    """One line on a platform without a device: which distribution, what is wrong, what mends it."""
    from anychip.platforms.inspection import state

    found = state(probed)
    maker = probed.plugin.distribution
    mend = f"; to mend it: {found.mend}" if found.mend else ""
    return f"{probed.plugin.name:12} {found.word:7} {found.reason}{mend}" + (
        "" if maker in found.reason else f"  ({maker})"
    )


def _show(found: Inspection) -> None:
    from anychip.sizes import gib

    for key, value in found.info.details.items():
        print(f"    {key}: {value}")
    if found.problem:
        print(f"    {found.problem}")
        return
    assert found.memory is not None
    assert found.claims is not None
    print(f"    memory: {gib(found.memory.free)} free of {gib(found.memory.total)}")
    print(f"    weights in {', '.join(found.claims.weight_dtypes)}; KV in {', '.join(found.claims.kv_dtypes)}")
    print(f"    --quantize {', '.join(found.claims.quantize) or '(none)'}")
    for p in found.providers:
        why = f": cannot be used: {p.broken.reason}; to mend it: {p.broken.mend}" if p.broken else ""
        print(f"    --provider {p.name} ({p.summary}){why}")
    for entry in found.ops:
        print(f"    {entry.op:24} {entry.dtype:9} {entry.provider}: {entry.reason}")
