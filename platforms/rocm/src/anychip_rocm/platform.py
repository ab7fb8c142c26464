"""The platform `rocm`: what is found, and what is said where something is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anychip_sdk.contract import Absent, Broken, DeviceError, DeviceInfo, Found, Platform, Provider
from anychip_sdk.kits.torch_build import build_fault, torch_build, triton_version

from anychip_rocm import kernel_driver
from anychip_rocm.kernel_driver import Card
from anychip_rocm.providers import AITER, check, providers

if TYPE_CHECKING:
    from anychip_rocm.device import RocmDevice

ARCHITECTURES = ("gfx942", "gfx950", "gfx1100")
INSTALL = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/rocm7.0"
JOIN = "sudo usermod -aG render,video $USER  # then log in again"


class RocmPlatform(Platform):
    def probe(self) -> Found | Absent | Broken:
        """Reads what the kernel driver lists, and which torch and Triton are installed; imports neither."""
        seen = kernel_driver.cards()
        if not seen:
            return Absent(f"there is no AMD card that computes on this machine ({kernel_driver.NODES})")
        cards = _known(seen)
        if not cards:
            archs = ", ".join(sorted({card.arch for card in seen}))
            return Absent(f"the kernels are for {', '.join(ARCHITECTURES)}; here is {archs}")
        if not kernel_driver.may_open():
            return Broken(f"this user may not open {kernel_driver.DEVICE}", JOIN)
        fault = build_fault("hip", INSTALL)
        return fault or Found(tuple(_info(card) for card in cards))

    def open(self, index: int = 0, *, threads: int | None = None) -> RocmDevice:
        """threads: of the host's own work in torch; None leaves torch's choice."""
        return self._open(index, threads, None)

    def providers(self) -> tuple[Provider, ...]:
        return providers()

    def open_with(self, provider: str, index: int = 0, *, threads: int | None = None) -> RocmDevice:
        check(provider)
        return self._open(index, threads, provider)

    def _open(self, index: int, threads: int | None, provider: str | None) -> RocmDevice:
        if threads is not None and threads < 1:
            raise DeviceError(f"threads is {threads}, expected 1 or more")
        info, card = chosen(index)
        import torch

        from anychip_rocm.device import RocmDevice

        if threads is not None:
            torch.set_num_threads(threads)
        return RocmDevice(info, card, aiter=provider == AITER)


def chosen(index: int) -> tuple[DeviceInfo, Card]:
    """Raises DeviceError where there is no such device, or torch cannot use it."""
    found = RocmPlatform().probe()
    if isinstance(found, Broken):
        raise DeviceError(f"{found.reason}; to mend it: {found.mend}")
    if isinstance(found, Absent):
        raise DeviceError(found.reason)
    if not 0 <= index < len(found.devices):
        raise DeviceError(f"there is no device rocm:{index}; there are {len(found.devices)}, from rocm:0 on")
    import torch

    if not torch.cuda.is_available():  # torch's ROCm builds answer under this name
        raise DeviceError("the driver lists a card, but torch cannot use it; see python -m torch.utils.collect_env")
    return found.devices[index], _known(kernel_driver.cards())[index]


def _known(cards: tuple[Card, ...]) -> list[Card]:
    return [card for card in cards if card.arch in ARCHITECTURES]


def _info(card: Card) -> DeviceInfo:
    build = torch_build()
    assert build is not None
    details = {
        "architecture": card.arch,
        "compute units": str(card.units),
        "torch": f"{build.version} (HIP {build.hip})",
        "triton": str(triton_version()),
    }
    description = f"AMD {card.arch}, {card.memory / 2**30:.0f} GiB"
    return DeviceInfo(name=f"rocm:{card.index}", description=description, details=details)
