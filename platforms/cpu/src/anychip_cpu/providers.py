"""Libraries whose ops the platform can take where a user asks for them. The probe's rule holds: nothing is imported."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from anychip_sdk.contract import Broken, DeviceError, NotSupported, Provider
from packaging.version import Version

IPEX = "ipex"
IPEX_MODULE = "intel_extension_for_pytorch"
IPEX_RELEASE = (2, 8)
"""Its last one. It works with the torch of the same number alone: with another one its import ends the process."""
INSTALL = f'pip install "torch==2.8.*" "{IPEX_MODULE}==2.8.*"'


def providers() -> tuple[Provider, ...]:
    return (Provider(name=IPEX, summary="Intel Extension for PyTorch 2.8, for torch 2.8", broken=_ipex_fault()),)


def check(name: str) -> None:
    """Raises NotSupported for a provider that is not one, DeviceError for one that cannot be used here."""
    known = {p.name: p.broken for p in providers()}
    if name not in known:
        raise NotSupported(f"there is no provider {name!r}; cpu has {', '.join(known)}")
    broken = known[name]
    if broken is not None:
        raise DeviceError(f"provider {name}: {broken.reason}; to mend it: {broken.mend}")


def _ipex_fault() -> Broken | None:
    if find_spec(IPEX_MODULE) is None:
        return Broken(f"{IPEX_MODULE} is not installed", INSTALL)
    versions = {name: _version(name) for name in (IPEX_MODULE, "torch")}
    if all(v is not None and Version(v).release[:2] == IPEX_RELEASE for v in versions.values()):
        return None
    found = " and ".join(f"{name} {v or 'without a version'}" for name, v in versions.items())
    return Broken(f"here are {found}; expected 2.8 of both", INSTALL)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
