"""Libraries whose ops the platform can take where a user asks for them. The probe's rule holds: nothing is imported."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from anychip_sdk.contract import Broken, DeviceError, NotSupported, Provider

AITER = "aiter"
"""The provider, and the module that it imports."""
DISTRIBUTION = "amd-aiter"
INSTALL = "git clone --recursive https://github.com/ROCm/aiter.git && cd aiter && python3 setup.py develop"


def providers() -> tuple[Provider, ...]:
    return (Provider(name=AITER, summary="AMD's kernels for norms and gated activations", broken=_aiter_fault()),)


def check(name: str) -> None:
    """Raises NotSupported for a provider that is not one, DeviceError for one that cannot be used here."""
    known = {p.name: p.broken for p in providers()}
    if name not in known:
        raise NotSupported(f"there is no provider {name!r}; rocm has {', '.join(known)}")
    broken = known[name]
    if broken is not None:
        raise DeviceError(f"provider {name}: {broken.reason}; to mend it: {broken.mend}")


def aiter_version() -> str | None:
    """None where AMD's distribution is not installed. PyPI has another one with a module of the same name."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def _aiter_fault() -> Broken | None:
    if find_spec(AITER) is None:
        return Broken("AITER is not installed", INSTALL)
    if aiter_version() is None:
        return Broken(f"the module {AITER} that is installed is not AMD's: there is no {DISTRIBUTION}", INSTALL)
    return None
