"""The platform `cuda`: what is found, and what is said where something is missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from anychip_sdk.contract import Absent, Broken, DeviceError, DeviceInfo, Found, Platform
from anychip_sdk.kits.torch_build import build_fault, torch_build, triton_version

from anychip_cuda import driver
from anychip_cuda.driver import Card, Driver, DriverError, NoDriver

if TYPE_CHECKING:
    from anychip_cuda.device import CudaDevice

OLDEST_CAPABILITY = (8, 0)
INSTALL = 'pip install --force-reinstall "torch>=2.8" "triton>=3.6"'
OLDER_CUDA = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
MISMATCH = "nvidia-smi  # where it fails too, reboot or install the driver again"
DRIVER = "sudo apt install nvidia-open  # in a container: docker run --gpus all"


class CudaPlatform(Platform):
    def probe(self) -> Found | Absent | Broken:
        """Asks the driver, and reads which torch and Triton are installed; imports neither."""
        try:
            found = driver.ask()
        except NoDriver:
            if driver.card_on_the_bus():
                return Broken(f"an NVIDIA card is here, but no driver ({driver.LIBRARY})", DRIVER)
            return Absent(f"there is no NVIDIA driver on this machine ({driver.LIBRARY})")
        except DriverError as error:
            if error.code == driver.NO_DEVICE:
                return Absent("the NVIDIA driver sees no card" + _hidden())
            return Broken(f"the NVIDIA driver does not answer: {error}", MISMATCH)
        cards = _new_enough(found)
        if not cards:
            return _too_old(found)
        return _fault(found) or Found(tuple(_info(card) for card in cards))

    def open(self, index: int = 0, *, threads: int | None = None) -> CudaDevice:
        """threads: of the host's own work in torch; None leaves torch's choice."""
        if threads is not None and threads < 1:
            raise DeviceError(f"threads is {threads}, expected 1 or more")
        info, card = chosen(index)
        import torch

        from anychip_cuda.device import CudaDevice

        if threads is not None:
            torch.set_num_threads(threads)
        return CudaDevice(info, card)


def chosen(index: int) -> tuple[DeviceInfo, Card]:
    """Raises DeviceError where there is no such device, or torch cannot use it."""
    found = CudaPlatform().probe()
    if isinstance(found, Broken):
        raise DeviceError(f"{found.reason}; to mend it: {found.mend}")
    if isinstance(found, Absent):
        raise DeviceError(found.reason)
    if not 0 <= index < len(found.devices):
        raise DeviceError(f"there is no device cuda:{index}; there are {len(found.devices)}, from cuda:0 on")
    import torch

    if not torch.cuda.is_available():
        raise DeviceError("the driver sees a card, but torch cannot use it; see python -m torch.utils.collect_env")
    return found.devices[index], _new_enough(driver.ask())[index]


def _new_enough(found: Driver) -> list[Card]:
    return [card for card in found.cards if card.capability >= OLDEST_CAPABILITY]


def _too_old(found: Driver) -> Absent:
    if not found.cards:
        return Absent("the NVIDIA driver sees no card" + _hidden())
    names = ", ".join(f"{card.name} ({_dotted(card.capability)})" for card in found.cards)
    return Absent(f"compute capability {_dotted(OLDEST_CAPABILITY)} or newer is needed; here is {names}")


def _fault(found: Driver) -> Broken | None:
    fault = build_fault("cuda", INSTALL)
    if fault is not None:
        return fault
    build = torch_build()
    assert build is not None
    assert build.cuda is not None
    # Within a major version of CUDA, an older driver runs programs of a newer one.
    if found.cuda[0] < int(build.cuda.partition(".")[0]):
        reason = f"the driver is for CUDA {_dotted(found.cuda)}, torch {build.version} for CUDA {build.cuda}"
        return Broken(f"{reason}: install a newer driver, or an older CUDA's torch", OLDER_CUDA)
    return None


def _info(card: Card) -> DeviceInfo:
    build = torch_build()
    assert build is not None
    details = {
        "compute capability": _dotted(card.capability),
        "torch": f"{build.version} (CUDA {build.cuda})",
        "triton": str(triton_version()),
    }
    description = f"{card.name}, {card.memory / 2**30:.0f} GiB"
    return DeviceInfo(name=f"cuda:{card.index}", description=description, details=details)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _hidden() -> str:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES is {value!r})"
