"""What the platform `cuda` says of a machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
from anychip.platforms.op_table import op_table
from anychip_cuda import driver, platform
from anychip_cuda.device import CudaDevice
from anychip_cuda.driver import Card, Driver, DriverError, NoDriver
from anychip_cuda.platform import CudaPlatform
from anychip_cuda.plugin import anychip_platform
from anychip_cuda.tiles import AMPERE, HOPPER, tiles_of
from anychip_sdk.contract import Absent, Broken, DeviceError, Found
from installed import install

H100 = Card(0, "NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30)
OLD = Card(1, "Tesla T4", (7, 5), 16 * 2**30)
GOOD = {"torch": "2.11.0", "cuda": "12.8", "triton": "3.6.0"}


def machine(monkeypatch, answer, on_bus=False):
    """answer: what the driver gives or raises."""

    def ask():
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(driver, "ask", ask)
    monkeypatch.setattr(driver, "card_on_the_bus", lambda: on_bus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_plugin_names_the_platform():
    manifest = anychip_platform()
    assert (manifest.name, manifest.rank) == ("cuda", 100)
    assert manifest.platform == f"{CudaPlatform.__module__}:{CudaPlatform.__qualname__}"


def test_probing_imports_neither_torch_nor_triton():
    code = "import sys; from anychip_cuda.platform import CudaPlatform; CudaPlatform().probe(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "triton"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("answer", "on_bus", "wanted"),
    [
        (NoDriver(), False, Absent("there is no NVIDIA driver on this machine (libcuda.so.1)")),
        (NoDriver(), True, Broken("an NVIDIA card is here, but no driver (libcuda.so.1)", platform.DRIVER)),
        (DriverError("cuInit", 100), False, Absent("the NVIDIA driver sees no card")),
        (Driver((12, 8), ()), False, Absent("the NVIDIA driver sees no card")),
        (
            DriverError("cuInit", 803), False,
            Broken("the NVIDIA driver does not answer: cuInit failed with CUDA error 803", platform.MISMATCH),
        ),
        (
            Driver((12, 8), (OLD,)), False,
            Absent("compute capability 8.0 or newer is needed; here is Tesla T4 (7.5)"),
        ),
    ],
    ids=["no driver", "card without driver", "no device", "empty", "mismatch", "old card"],
)  # fmt: skip
def test_a_machine_without_a_card_to_use(monkeypatch, answer, on_bus, wanted):
    machine(monkeypatch, answer, on_bus)
    assert CudaPlatform().probe() == wanted
    with pytest.raises(DeviceError) as error:
        CudaPlatform().open()
    assert str(error.value).startswith(wanted.reason)
    assert (getattr(wanted, "mend", "") or "") in str(error.value)


def test_hidden_cards_are_not_called_missing(monkeypatch):
    machine(monkeypatch, DriverError("cuInit", 100))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert CudaPlatform().probe().reason == "the NVIDIA driver sees no card (CUDA_VISIBLE_DEVICES is '')"


@pytest.mark.parametrize(
    ("packages", "reason", "mend"),
    [
        ({}, "torch is not installed", platform.INSTALL),
        (GOOD | {"torch": "2.7.1"}, "torch is 2.7.1, older than 2.8", platform.INSTALL),
        (
            GOOD | {"torch": "2.11.0+cpu", "cuda": None},
            "torch 2.11.0+cpu is a CPU build; this card needs a CUDA build", platform.INSTALL,
        ),
        (
            GOOD | {"torch": "2.11.0+rocm7.0", "cuda": None, "hip": "7.0"},
            "torch 2.11.0+rocm7.0 is a ROCm build; this card needs a CUDA build", platform.INSTALL,
        ),
        (GOOD | {"triton": None}, "triton is not installed", 'pip install "triton>=3.6"'),
        (GOOD | {"triton": "3.4.0"}, "triton is 3.4.0, older than 3.6", 'pip install "triton>=3.6"'),
        (
            GOOD | {"cuda": "13.0"},
            "the driver is for CUDA 12.8, torch 2.11.0 for CUDA 13.0: install a newer driver, or an older CUDA's torch",
            platform.OLDER_CUDA,
        ),
    ],
    ids=["none", "old torch", "cpu build", "rocm build", "no triton", "old triton", "old driver"],
)  # fmt: skip
def test_a_card_that_the_software_cannot_use(monkeypatch, tmp_path, packages, reason, mend):
    machine(monkeypatch, Driver((12, 8), (H100,)))
    install(monkeypatch, tmp_path, **packages)
    assert CudaPlatform().probe() == Broken(reason, mend)


def test_cards_that_are_found(monkeypatch, tmp_path):
    """An old card beside a new one is left out; the name says which card torch counts it as."""
    old, new = Card(0, "Tesla T4", (7, 5), 16 << 30), Card(1, "NVIDIA A10G", (8, 6), 24 << 30)
    machine(monkeypatch, Driver((12, 4), (old, new)))
    install(monkeypatch, tmp_path, **GOOD)
    found = CudaPlatform().probe()
    assert isinstance(found, Found)
    (info,) = found.devices
    assert (info.name, info.description) == ("cuda:1", "NVIDIA A10G, 24 GiB")
    assert info.details == {"compute capability": "8.6", "torch": "2.11.0 (CUDA 12.8)", "triton": "3.6.0"}


def test_what_open_refuses(monkeypatch, tmp_path):
    machine(monkeypatch, Driver((12, 8), (H100,)))
    install(monkeypatch, tmp_path, **GOOD)
    with pytest.raises(DeviceError, match="no device cuda:1; there are 1, from cuda:0 on"):
        CudaPlatform().open(1)
    with pytest.raises(DeviceError, match="threads is 0, expected 1 or more"):
        CudaPlatform().open(threads=0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="the driver sees a card, but torch cannot use it"):
        CudaPlatform().open()


def test_claims(monkeypatch, tmp_path):
    machine(monkeypatch, Driver((12, 8), (H100,)))
    install(monkeypatch, tmp_path, **GOOD)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    device = CudaPlatform().open()
    assert isinstance(device, CudaDevice)
    claims = device.capabilities
    assert claims.weight_dtypes == ("bfloat16", "float16", "float32")
    assert claims.kv_dtypes == (*claims.weight_dtypes, "int8", "fp8")
    assert device.allocator.default_page_size in claims.page_sizes
    assert (claims.moe, claims.softcap, claims.sinks, claims.sliding_window, claims.device_feedback) == (True,) * 5
    assert (claims.batch_invariant, claims.max_world_size, claims.asynchronous) == (False, 1, True)
    assert not [entry.op for entry in op_table(device) if entry.reference]
    device.close()


def test_tiles_by_generation():
    assert tiles_of((9, 0)) is tiles_of((10, 0)) is HOPPER
    assert tiles_of((8, 0)) is tiles_of((8, 9)) is tiles_of((12, 0)) is AMPERE


class Library:
    """What libcuda answers for one H100."""

    def __init__(self, init=0):
        self.cuInit = lambda flags: init
        self.cuDeviceGet = lambda device, index: 0

    def cuDriverGetVersion(self, version):
        version._obj.value = 12080
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = b"NVIDIA H100 80GB HBM3"
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = 80 * 2**30
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0


def test_what_the_driver_is_asked(monkeypatch):
    monkeypatch.setattr(driver, "CDLL", lambda name: Library())
    assert driver.ask() == Driver((12, 8), (H100,))
    monkeypatch.setattr(driver, "CDLL", lambda name: Library(init=999))
    with pytest.raises(DriverError, match="cuInit failed with CUDA error 999"):
        driver.ask()
    monkeypatch.undo()
    monkeypatch.setattr(driver, "LIBRARY", "libnothing.so.1")
    with pytest.raises(NoDriver):
        driver.ask()


def test_cards_on_the_bus(monkeypatch, tmp_path):
    monkeypatch.setattr(driver, "PCI", tmp_path)
    assert not driver.card_on_the_bus()
    for name, vendor, kind in (("a", "0x8086", "0x030000"), ("b", "0x10de", "0x040300"), ("c", "0x10de", "0x030200")):
        assert not driver.card_on_the_bus()
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")
    assert driver.card_on_the_bus()
