"""The platforms `tpu` and `tpu-emulated`: what is there, or why not, without importing JAX."""

from __future__ import annotations

import logging
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from anychip_sdk.contract import Absent, Broken, DeviceError, DeviceInfo, Found, NotSupported, Planned, Platform
from packaging.requirements import Requirement
from packaging.version import Version

from anychip_tpu import chips, emulation

if TYPE_CHECKING:
    from anychip_sdk.kits.jax import Kept

    from anychip_tpu.device import TpuDevice

LOG = logging.getLogger(__name__)
INSTALL_JAX = 'pip install "jax>=0.10,<0.11"'
INSTALL_LIBTPU = 'pip install "jax[tpu]>=0.10,<0.11"'
EMULATION = "the TPU's step on JAX's CPU backend, for checking and not for speed"


class TpuPlatform(Platform):
    """One device for each chip of this machine and, where it has several, one more that is all of them."""

    def probe(self) -> Found | Absent | Broken:
        kinds = chips.attached()
        if not kinds:
            return Absent(
                "no TPU on the PCI bus of this machine; --device tpu-emulated runs the same step on the processor, and "
                "anychip plan knows tpu:v5e-4 and others like it"
            )
        problem = _jax_problem() or _libtpu_problem() or _busy()
        if problem:
            return problem
        details = {name: metadata.version(name) for name in ("jax", "libtpu")}
        texts = [f"TPU {kind}, {_gib(kind)} GiB" for kind in kinds]
        if len(kinds) > 1:
            texts.append(f"{len(kinds)} TPU {kinds[0]} as one, {sum(map(_gib, kinds))} GiB")
        return Found(
            tuple(DeviceInfo(name=f"tpu:{i}", description=text, details=details) for i, text in enumerate(texts))
        )

    def open(self, index: int = 0, *, threads: int | None = None) -> TpuDevice:
        """threads are not used: the host only launches steps."""
        info = _info(self.probe(), index)
        count = len(chips.attached())
        from anychip_tpu.device import open_chips

        return open_chips(info, range(count) if index == count else (index,))

    def plan(self, which: str) -> Planned:
        """KIND-COUNT, as in v5e-4."""
        kind, count = chips.planned(which)
        if problem := _jax_problem():
            raise NotSupported(f"{problem.reason}; to mend it: {problem.mend}")
        lacks = _libtpu_problem()
        from anychip_tpu.planned import PlannedTpu

        return PlannedTpu(kind, count, f"{lacks.reason}; to mend it: {lacks.mend}" if lacks else "")


class EmulatedPlatform(Platform):
    """Everywhere where JAX is: one chip, and two as one. Devices that it opens share their compiled programs."""

    def __init__(self) -> None:
        self._kept: Kept | None = None

    def probe(self) -> Found | Broken:
        problem = _jax_problem()
        if problem:
            return problem
        try:
            followed = emulation.told()
        except DeviceError as error:
            return Broken(str(error), f"unset {emulation.VARIABLE}")
        details = {"jax": metadata.version("jax"), "emulated": "yes", "emulation": followed}
        one = DeviceInfo(name="tpu-emulated:0", description=f"an emulated TPU: {EMULATION}", details=details)
        two = DeviceInfo(name="tpu-emulated:1", description=f"two emulated TPUs as one: {EMULATION}", details=details)
        return Found((one, two))

    def open(self, index: int = 0, *, threads: int | None = None) -> TpuDevice:
        """threads are not used: JAX's CPU backend takes one for each core."""
        info = _info(self.probe(), index)
        slow = "every new shape of a step compiles for seconds, and every layer copies the KV cache (--kv-cache-memory)"
        LOG.warning("%s is %s; %s", info.name, EMULATION, slow)
        from anychip_sdk.kits.jax import Kept

        from anychip_tpu.device import open_emulated

        self._kept = self._kept or Kept()
        return open_emulated(info, index + 1, self._kept)


def _info(found: Found | Absent | Broken, index: int) -> DeviceInfo:
    if isinstance(found, Absent):
        raise DeviceError(found.reason)
    if isinstance(found, Broken):
        raise DeviceError(f"{found.reason}; to mend it: {found.mend}")
    if not 0 <= index < len(found.devices):
        names = ", ".join(info.name for info in found.devices)
        raise DeviceError(f"there is no device {index}; there is {names}")
    return found.devices[index]


def _jax_problem() -> Broken | None:
    if find_spec("jax") is None:
        return Broken("jax is not installed", INSTALL_JAX)
    version = metadata.version("jax")
    if Version(version).release[:2] != (0, 10):
        return Broken(f"jax is {version}; expected 0.10, whose Pallas the kernels are written for", INSTALL_JAX)
    return None


def _libtpu_problem() -> Broken | None:
    """JAX says which libtpu it goes with."""
    wanted = next(
        (r for r in map(Requirement, metadata.requires("jax") or ()) if r.name == "libtpu"), Requirement("libtpu")
    )
    try:
        version = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        return Broken("libtpu is not installed", INSTALL_LIBTPU)
    if not wanted.specifier.contains(version):
        return Broken(f"libtpu is {version}; jax {metadata.version('jax')} needs {wanted.specifier}", INSTALL_LIBTPU)
    return None


def _busy() -> Broken | None:
    found = chips.holder()
    if found is None:
        return None
    pid, name = found
    return Broken(f"process {pid} ({name}) has the TPU, and only one process can", f"kill {pid}, or wait for its end")


def _gib(kind: str) -> int:
    return chips.CHIPS[kind].hbm // 2**30
