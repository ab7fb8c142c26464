"""The devices `tpu` and `tpu-emulated`: how they are found and opened, and what is said where they are not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib import metadata

import jax
import numpy as np
import pytest
from anychip.engine.budget import make_budget
from anychip.engine.options import EngineOptions
from anychip.errors import CapacityError
from anychip.loading.checkpoint import open_checkpoint
from anychip.platforms.op_table import op_table, refuse_reference
from anychip_sdk.contract import Absent, Broken, DeviceError, DeviceInfo, Found, KVSpec, NotSupported, Paged
from anychip_tpu import chips, device, emulation, platform
from anychip_tpu.emulated_plugin import anychip_platform as emulated_manifest
from anychip_tpu.kernels.interpreters import EMULATIONS
from anychip_tpu.kernels.strict import STRICT
from anychip_tpu.platform import EmulatedPlatform, TpuPlatform
from anychip_tpu.plugin import anychip_platform as manifest


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with the PCI devices named, and files of as many chips; processes are planted below `proc`."""
    for name in ("SYS_PCI", "DEV", "PROC"):
        monkeypatch.setattr(chips, name, tmp_path / name.lower())

    def build(*ids: str, vendor: str = "0x1ae0") -> None:
        (tmp_path / "dev/vfio").mkdir(parents=True)
        for i, kind in enumerate(ids):
            entry = tmp_path / f"sys_pci/0000:00:0{i}.0"
            entry.mkdir(parents=True)
            (entry / "vendor").write_text(f"{vendor}\n")
            (entry / "device").write_text(f"{kind}\n")
            (tmp_path / f"dev/vfio/{i}").touch()

    return build


def test_the_plugins_name_the_platforms():
    for made, cls in ((manifest(), TpuPlatform), (emulated_manifest(), EmulatedPlatform)):
        assert made.platform == f"{cls.__module__}:{cls.__qualname__}"
    assert manifest().rank > 10  # the rank of cpu
    assert (emulated_manifest().rank, emulated_manifest().name > "numpy") == (0, True)  # auto comes to numpy first
    assert (manifest().name, emulated_manifest().name) == ("tpu", "tpu-emulated")


def test_finding_the_devices_imports_no_framework():
    code = (
        "import sys\n"
        "from anychip_tpu import plugin, emulated_plugin\n"
        "plugin.anychip_platform(), emulated_plugin.anychip_platform()\n"
        "assert 'anychip_tpu.platform' not in sys.modules\n"
        "from anychip_tpu.platform import EmulatedPlatform, TpuPlatform\n"
        "TpuPlatform().probe(), EmulatedPlatform().probe()\n"
        "assert not {'jax', 'torch'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_torch_comes_into_the_process():
    code = (
        "import sys\n"
        "from anychip_tpu.platform import EmulatedPlatform\n"
        "EmulatedPlatform().open().close()\n"
        "assert 'torch' not in sys.modules and 'jax' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tpu-emulated:0 is the TPU's step on JAX's CPU backend" in done.stderr


@pytest.mark.parametrize(("ids", "vendor"), [((), ""), (("0x0063",), "0x10de"), (("0x9999",), "0x1ae0")], ids=str)
def test_a_machine_without_a_tpu(machine, ids, vendor):
    machine(*ids, vendor=vendor)
    found = TpuPlatform().probe()
    assert isinstance(found, Absent)
    assert found.reason.startswith("no TPU on the PCI bus of this machine; --device tpu-emulated")
    with pytest.raises(DeviceError, match="no TPU on the PCI bus"):
        TpuPlatform().open()


def versions(monkeypatch, **changed):
    """None: not installed."""
    real = metadata.version

    def version(name):
        found = changed.get(name, real(name) if name not in changed else None)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(platform.metadata, "version", version)


def fitting_libtpu():
    return next(r for r in metadata.requires("jax") if r.startswith("libtpu")).partition("==")[2].partition(".*")[0]


def test_each_chip_is_a_device(machine, monkeypatch):
    machine("0x0063", "0x0063")
    versions(monkeypatch, libtpu=fitting_libtpu())
    found = TpuPlatform().probe()
    assert isinstance(found, Found)
    assert [info.name for info in found.devices] == ["tpu:0", "tpu:1", "tpu:2"]
    assert [info.description for info in found.devices[1:]] == ["TPU v5e, 16 GiB", "2 TPU v5e as one, 32 GiB"]
    assert set(found.devices[0].details) == {"jax", "libtpu"}
    with pytest.raises(DeviceError, match="there is no device 3; there is tpu:0, tpu:1, tpu:2"):
        TpuPlatform().open(3)


def test_a_libtpu_that_will_not_do(machine, monkeypatch):
    machine("0x006f")
    versions(monkeypatch, libtpu=None)
    assert TpuPlatform().probe() == Broken("libtpu is not installed", platform.INSTALL_LIBTPU)
    versions(monkeypatch, libtpu="0.0.1")
    found = TpuPlatform().probe()
    assert isinstance(found, Broken)
    assert found.reason.startswith(f"libtpu is 0.0.1; jax {metadata.version('jax')} needs ==0.0.")


@pytest.mark.parametrize("cls", [TpuPlatform, EmulatedPlatform])
def test_a_jax_that_will_not_do(machine, monkeypatch, cls):
    machine("0x006f")
    versions(monkeypatch, jax="0.9.1")
    assert cls().probe().reason.startswith("jax is 0.9.1; expected 0.10")
    monkeypatch.setattr(platform, "find_spec", lambda _: None)
    assert cls().probe() == Broken("jax is not installed", platform.INSTALL_JAX)
    with pytest.raises(DeviceError, match="jax is not installed; to mend it: pip install"):
        cls().open()


def test_a_tpu_that_another_process_has(machine, monkeypatch, tmp_path):
    machine("0x0063")
    versions(monkeypatch, libtpu=fitting_libtpu())
    for pid, target in ((7, "/dev/null"), (4711, str(tmp_path / "dev/vfio/0")), (os.getpid(), "x")):
        (tmp_path / f"proc/{pid}/fd").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/fd/3").symlink_to(target)
        (tmp_path / f"proc/{pid}/comm").write_text("trainer\n")
    found = TpuPlatform().probe()
    assert found == Broken(
        "process 4711 (trainer) has the TPU, and only one process can", "kill 4711, or wait for its end"
    )


def test_the_emulation_opens_and_says_so(caplog):
    with caplog.at_level(logging.WARNING, "anychip_tpu"):
        opened = EmulatedPlatform().open()
    assert "for checking and not for speed; every new shape of a step compiles for seconds" in caplog.text
    assert opened.info.name == "tpu-emulated:0"
    assert opened.info.details["emulated"] == "yes"
    opened.close()
    with pytest.raises(DeviceError, match="there is no device 2"):
        EmulatedPlatform().open(2)


def test_a_context_that_its_kv_cache_cannot_hold(monkeypatch):
    monkeypatch.setattr("anychip_tpu.device.EMULATED_BYTES", 2**20)
    opened = EmulatedPlatform().open()
    refused = r"hold (\d+): ask for max_model_len \1 or less; tpu-emulated:0 keeps no more$"
    with open_checkpoint("demo", weights=False) as checkpoint, pytest.raises(CapacityError, match=refused):
        make_budget(checkpoint, opened, EngineOptions(max_model_len=1024))
    opened.close()


def test_both_emulated_devices_open_in_one_process():
    """As in `anychip devices -v`, which opens one after the other."""
    code = (
        "from anychip_tpu.platform import EmulatedPlatform\n"
        "for index in (0, 1):\n"
        "    EmulatedPlatform().open(index).close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_op_runs_on_reference_code():
    """So --strict takes it."""
    opened = EmulatedPlatform().open()
    refuse_reference(op_table(opened), opened.info.name)
    own = {entry.op for entry in op_table(opened) if entry.reason == "the platform's own"}
    assert own >= {"attention.write", "attention.attend", "attention.attend_with_sinks", "allocator.layout"}
    opened.close()


def test_how_kernels_are_emulated(monkeypatch):
    monkeypatch.delenv("ANYCHIP_TPU_EMULATION", raising=False)
    assert emulation.mode() == "quick"
    monkeypatch.setenv("ANYCHIP_TPU_EMULATION", "strict")
    assert EMULATIONS[emulation.mode()] is STRICT
    assert EmulatedPlatform().probe().devices[0].details["emulation"].startswith("strict: ")
    monkeypatch.setenv("ANYCHIP_TPU_EMULATION", "fast")
    said = "ANYCHIP_TPU_EMULATION is 'fast'; expected quick or strict"
    assert EmulatedPlatform().probe() == Broken(said, "unset ANYCHIP_TPU_EMULATION")
    with pytest.raises(DeviceError, match=said):
        EmulatedPlatform().open()


def test_compiled_programs_are_kept(monkeypatch, tmp_path):
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        jax.config.update("jax_compilation_cache_dir", None)
        device._keep_programs()
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "anychip/tpu")
        jax.config.update("jax_compilation_cache_dir", "mine")
        device._keep_programs()
        assert jax.config.values["jax_compilation_cache_dir"] == "mine"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_tpu_that_jax_does_not_start():
    info = DeviceInfo(name="tpu:0", description="", details={})
    with pytest.raises(DeviceError, match=r"^JAX does not start the TPU: .*; see that no other process has it$"):
        device.open_chips(info, (0,))


def test_pages_are_whole_rows_of_memory():
    allocator = EmulatedPlatform().open().allocator
    spec = KVSpec((Paged(layers=2, kv_heads=2, k_dim=64, v_dim=64),), "bfloat16")
    page = 2 * 2 * 32 * 128 * 2 * 2  # layers, heads, places, lanes, K and V, bytes
    layout = allocator.layout(spec, budget=10 * page, page_size=None, max_len=10**4, slots=5)
    assert (layout.page_size, layout.pages, layout.spec) == (32, (10,), spec)
    assert (layout.page_bytes(0), layout.nbytes) == (page, 10 * page)  # the padding of heads counts
    assert [cache.shape for cache in allocator.allocate(layout)[0]] == [(2, 10, 2, 32, 128)] * 2
    long = allocator.layout(spec, budget=10 * page, page_size=None, max_len=2**17, slots=65)
    assert long.page_size == 128  # the page table of 64 such requests would not fit with smaller pages
    uneven = KVSpec((Paged(layers=1, kv_heads=1, k_dim=64, v_dim=32),), "bfloat16")
    with pytest.raises(NotSupported, match="heads of K are 64 wide and those of V 32"):
        allocator.layout(uneven, budget=10**6, page_size=None, max_len=100, slots=5)
    with pytest.raises(NotSupported, match="no pages of 8 tokens; use 16, 32, 64, 128"):
        allocator.layout(spec, budget=10**6, page_size=8, max_len=100, slots=5)


@pytest.mark.parametrize("kept", ["int8", "fp8"])
def test_pages_in_8_bits_have_a_row_of_scales(kept):
    allocator = EmulatedPlatform().open().allocator
    spec = KVSpec((Paged(layers=2, kv_heads=2, k_dim=64, v_dim=64),), kept)
    page = 2 * 2 * 2 * (64 * 128 + 128 * 4)  # layers, heads, K and V; places of whole lanes, and scales
    layout = allocator.layout(spec, budget=20 * page, page_size=None, max_len=10**4, slots=5)
    assert (layout.page_size, layout.pages, layout.page_bytes(0)) == (64, (20,), page)
    kv = allocator.allocate(layout)
    assert sum(array.nbytes for array in jax.tree.leaves(kv)) == layout.nbytes
    held = np.float32(np.arange(20) % 16)  # numbers that both formats have
    kv = jax.tree.map(lambda a: (jax.numpy.zeros(a.shape) + held[:, None, None, None]).astype(a.dtype), kv)
    kv = allocator.copy_pages(kv, 0, np.array([3, 1], np.int32), np.array([6, 18], np.int32))
    held[[6, 18]] = held[[3, 1]]
    for array in jax.tree.leaves(kv):
        wanted = np.broadcast_to(held[:, None, None, None], array.shape)
        np.testing.assert_array_equal(np.asarray(array).astype(np.float32), wanted)
    allocator.free(kv)
