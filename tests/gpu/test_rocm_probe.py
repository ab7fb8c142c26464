"""What the platform `rocm` says of a machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
from anychip.platforms.op_table import op_table
from anychip_rocm import kernel_driver, platform
from anychip_rocm.device import RocmDevice
from anychip_rocm.kernel_driver import Card, cards
from anychip_rocm.platform import ARCHITECTURES, RocmPlatform
from anychip_rocm.plugin import anychip_platform
from anychip_rocm.tiles import TILES
from anychip_sdk.contract import Absent, Broken, DeviceError, Found
from installed import install

GOOD = {"torch": "2.11.0+rocm7.0", "hip": "7.0.1", "triton": "3.6.0"}
HOST, MI300, RX7900, OLD = 0, 90402, 110000, 90010


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """machine(version, ...): a node for each, of which 0 is the host's processor."""
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kernel_driver, "may_open", lambda: True)
    nodes = tmp_path / "nodes"
    monkeypatch.setattr(kernel_driver, "NODES", nodes)

    def make(*versions):
        for i, version in enumerate(versions):
            bank = nodes / str(i) / "mem_banks/0"
            bank.mkdir(parents=True)
            (bank / "properties").write_text(f"heap_type 1\nsize_in_bytes {192 << 30}\n")
            simd = 0 if version == HOST else 1216
            text = f"simd_count {simd}\nsimd_per_cu 4\ngfx_target_version {version}\nname is not a number\n"
            (nodes / str(i) / "properties").write_text(text)

    return make


def test_the_plugin_names_the_platform():
    manifest = anychip_platform()
    assert (manifest.name, manifest.rank) == ("rocm", 95)
    assert manifest.platform == f"{RocmPlatform.__module__}:{RocmPlatform.__qualname__}"


def test_probing_imports_neither_torch_nor_triton():
    code = "import sys; from anychip_rocm.platform import RocmPlatform; RocmPlatform().probe(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "triton"} & set(done.stdout.split())


def test_no_driver_and_no_card(machine):
    found = RocmPlatform().probe()
    assert isinstance(found, Absent)
    assert found.reason.startswith("there is no AMD card that computes on this machine (")
    machine(HOST)
    assert RocmPlatform().probe() == found
    with pytest.raises(DeviceError, match="there is no AMD card"):
        RocmPlatform().open()


def test_a_card_without_kernels(machine):
    machine(HOST, OLD)
    assert RocmPlatform().probe() == Absent("the kernels are for gfx942, gfx950, gfx1100; here is gfx90a")


def test_a_driver_that_may_not_be_opened(machine, monkeypatch):
    machine(HOST, MI300)
    monkeypatch.setattr(kernel_driver, "may_open", lambda: False)
    assert RocmPlatform().probe() == Broken("this user may not open /dev/kfd", platform.JOIN)


@pytest.mark.parametrize(
    ("packages", "reason"),
    [
        ({}, "torch is not installed"),
        (
            {"torch": "2.11.0", "cuda": "12.8", "triton": "3.6.0"},
            "torch 2.11.0 is a CUDA build; this card needs a ROCm build",
        ),
        (
            {"torch": "2.11.0+cpu", "triton": "3.6.0"},
            "torch 2.11.0+cpu is a CPU build; this card needs a ROCm build",
        ),
        (GOOD | {"triton": None}, "triton is not installed"),
        (GOOD | {"triton": "3.5.1"}, "triton is 3.5.1, older than 3.6"),
    ],
    ids=["none", "cuda build", "cpu build", "no triton", "old triton"],
)
def test_a_card_that_the_software_cannot_use(machine, monkeypatch, tmp_path, packages, reason):
    machine(HOST, MI300)
    install(monkeypatch, tmp_path, **packages)
    assert RocmPlatform().probe() == Broken(reason, platform.INSTALL)


def test_cards_that_are_found(machine, monkeypatch, tmp_path):
    machine(HOST, OLD, MI300)
    install(monkeypatch, tmp_path, **GOOD)
    found = RocmPlatform().probe()
    assert isinstance(found, Found)
    (info,) = found.devices
    assert (info.name, info.description) == ("rocm:1", "AMD gfx942, 192 GiB")
    assert info.details["compute units"] == "304"
    assert info.details["torch"] == "2.11.0+rocm7.0 (HIP 7.0.1)"


def test_visible_cards(machine, monkeypatch):
    machine(HOST, MI300, OLD, RX7900)
    assert [card.arch for card in cards()] == ["gfx942", "gfx90a", "gfx1100"]
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "2, 0")
    assert cards()[0] == Card(0, "gfx1100", 192 << 30, 304)
    assert [card.arch for card in cards()] == ["gfx1100", "gfx942"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert [card.arch for card in cards()] == ["gfx1100"]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1,-1,0")
    assert [card.arch for card in cards()] == ["gfx942"]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "GPU-1234")
    assert len(cards()) == 2
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    assert cards() == ()


def test_what_open_refuses_and_what_it_opens(machine, monkeypatch, tmp_path):
    machine(HOST, RX7900)
    install(monkeypatch, tmp_path, **GOOD)
    with pytest.raises(DeviceError, match="no device rocm:1; there are 1, from rocm:0 on"):
        RocmPlatform().open(1)
    with pytest.raises(DeviceError, match="threads is 0, expected 1 or more"):
        RocmPlatform().open(threads=0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="the driver lists a card, but torch cannot use it"):
        RocmPlatform().open()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    device = RocmPlatform().open()
    assert isinstance(device, RocmDevice)
    assert device.capabilities.weight_dtypes[0] == "bfloat16"
    assert device.capabilities.sinks
    assert "hipBLASLt" in device.ops.adopted["linear"]
    assert not [entry.op for entry in op_table(device) if entry.reference]


def test_every_architecture_has_tiles():
    assert tuple(TILES) == ARCHITECTURES
