"""The device `cpu`: how it is found and opened, and what it claims."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anychip_cpu import native, onednn, platform
from anychip_cpu.onednn_ops import CpuOps
from anychip_cpu.platform import CpuPlatform
from anychip_cpu.plugin import anychip_platform
from anychip_sdk.contract import QUANT_FORMATS, Broken, DeviceError, Found, WeightSpec


def test_the_plugin_names_the_platform():
    manifest = anychip_platform()
    assert (manifest.name, manifest.rank) == ("cpu", 10)
    assert manifest.platform == f"{CpuPlatform.__module__}:{CpuPlatform.__qualname__}"


def test_finding_the_device_does_not_import_torch():
    code = (
        "import sys; from anychip_cpu.plugin import anychip_platform; anychip_platform()\n"
        "assert 'anychip_cpu.platform' not in sys.modules\n"
        "from anychip_cpu.platform import CpuPlatform; CpuPlatform().probe()\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_there_is_one_device():
    found = CpuPlatform().probe()
    assert isinstance(found, Found)
    assert [info.name for info in found.devices] == ["cpu"]
    info = found.devices[0]
    cores = len(os.sched_getaffinity(0))
    assert info.details["torch"] == metadata.version("torch")
    assert info.details["cores"] == str(cores)
    assert info.description.endswith(f", {cores} cores")


def test_the_description_comes_from_cpuinfo(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "CPUINFO", tmp_path / "cpuinfo")
    assert CpuPlatform().probe().devices[0].details["isa"] == ""  # no such file: not Linux
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some Chip\nflags\t\t: fpu avx512f avx2 x\n")
    info = CpuPlatform().probe().devices[0]
    assert info.description.startswith("Some Chip, ")
    assert info.details["isa"] == "avx2 avx512f"


def missing(name):
    raise metadata.PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (lambda _: "2.7.1+cpu", r"torch is 2\.7\.1\+cpu, older than 2\.8"),
        (missing, "it has no version"),
    ],
)
def test_a_torch_that_will_not_do_is_named(monkeypatch, version, reason):
    monkeypatch.setattr(platform.metadata, "version", version)
    found = CpuPlatform().probe()
    assert isinstance(found, Broken)
    assert found.mend == 'pip install "torch>=2.8"'
    with pytest.raises(DeviceError, match=rf"{reason}; to mend it: pip install"):
        CpuPlatform().open()


def test_no_torch_at_all(monkeypatch):
    monkeypatch.setattr(platform, "find_spec", lambda _: None)
    assert CpuPlatform().probe() == Broken("torch is not installed", 'pip install "torch>=2.8"')


@pytest.mark.parametrize("version", ["2.8.0", "2.13.0+cpu", "3.0", "2.8.0a0+git1234"])
def test_a_torch_that_will_do(monkeypatch, version):
    monkeypatch.setattr(platform.metadata, "version", lambda _: version)
    assert isinstance(CpuPlatform().probe(), Found)


def test_threads():
    before = torch.get_num_threads()
    CpuPlatform().open(threads=1)
    assert torch.get_num_threads() == 1
    CpuPlatform().open()
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))
    torch.set_num_threads(before)
    with pytest.raises(DeviceError, match="threads is 0, expected 1 to"):
        CpuPlatform().open(threads=0)
    with pytest.raises(DeviceError, match="no device cpu:1; there is one, cpu:0"):
        CpuPlatform().open(1)


@pytest.mark.parametrize(
    ("limit", "threads"), [("max 100000", None), ("50000 100000", 1), ("100000 100000", 1), ("9900000 100000", None)]
)
def test_a_cgroups_share_of_time_bounds_the_threads(tmp_path, monkeypatch, limit, threads):
    (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(platform, "CPU_MAX", tmp_path / "cpu.max")
    before = torch.get_num_threads()
    CpuPlatform().open()
    assert torch.get_num_threads() == (threads or len(os.sched_getaffinity(0)))
    torch.set_num_threads(before)


def test_claims():
    device = CpuPlatform().open(threads=1)
    claims = device.capabilities
    assert claims.weight_dtypes == ("float32", "bfloat16", "float16")
    assert claims.kv_dtypes == (*claims.weight_dtypes, "int8", "fp8")
    assert device.allocator.default_page_size in claims.page_sizes
    assert (claims.moe, claims.softcap, claims.sliding_window, claims.device_feedback) == (True,) * 4
    assert not claims.batch_invariant
    assert claims.quantize == (tuple(QUANT_FORMATS) if native.isas() else ())
    assert claims.max_world_size == device.size == 1


def test_every_op_is_adopted_with_a_reason():
    assert {"linear", "moe", "sample", "attention.attend", "allocator.copy_pages"} <= CpuOps.adopted.keys()
    assert all("torch" in reason for reason in CpuOps.adopted.values())
    packed = "packed for: float32" in CpuOps.adopted["linear"]
    assert packed == onednn.can_pack(torch.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("available", [True, False])
def test_without_packed_products_the_kits_own_is_right_too(monkeypatch, dtype, available):
    monkeypatch.setattr("anychip_cpu.device.kernels", lambda: None)
    device = CpuPlatform().open(threads=1)
    if not available:
        monkeypatch.setattr("anychip_cpu.onednn_ops.can_pack", lambda dtype: False)
    array = np.random.default_rng(0).integers(-3, 4, (40, 24)).astype(np.float32)  # exact in every dtype
    w = device.pack(WeightSpec((("w",),), "linear"), lambda name, index=(): array[index], {"w": array.shape}, dtype)
    assert w.tensor.is_mkldnn == (available and onednn.can_pack(w.tensor.dtype))
    x = torch.randint(-3, 4, (5, 24)).to(w.tensor.dtype)
    assert device.ops.linear(x, w).float().numpy().tolist() == (x.float().numpy() @ array.T).tolist()


def test_packing_is_asked_for_not_assumed(monkeypatch):
    onednn.can_pack.cache_clear()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not onednn.can_pack(torch.float32)
    onednn.can_pack.cache_clear()
    assert not onednn.can_pack(torch.float64)
    onednn.can_pack.cache_clear()


def test_the_distribution_announces_the_plugin():
    text = (Path(__file__).parents[2] / "platforms/cpu/pyproject.toml").read_text()
    assert '[project.entry-points."anychip.platforms"]\ncpu = "anychip_cpu.plugin"' in text


needs_kernels = pytest.mark.skipif(not native.isas(), reason="anychip-cpu was installed without a C++ compiler")


@needs_kernels
def test_kernels_of_our_own_are_named_in_the_op_table():
    device = CpuPlatform().open(threads=1)
    assert "kernels of our own" in device.ops.adopted["linear"]


@needs_kernels
def test_an_instruction_set_can_be_forced(monkeypatch):
    monkeypatch.setenv(native.FORCED, "portable")
    assert native.kernels().name == b"portable"
    monkeypatch.setenv(native.FORCED, "sse9")
    with pytest.raises(
        DeviceError, match=r"ANYCHIP_CPU_ISA is 'sse9'; use none, or what this processor has kernels for: .*portable"
    ):
        CpuPlatform().open(threads=1)


def test_the_kernels_can_be_left_out(monkeypatch):
    monkeypatch.setenv(native.FORCED, native.NONE)
    device = CpuPlatform().open(threads=1)
    assert type(device.ops) is CpuOps
    assert device.capabilities.quantize == ()


def test_forcing_one_without_the_library_is_an_error(monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    assert native.kernels() is None
    monkeypatch.setenv(native.FORCED, "avx2")
    with pytest.raises(DeviceError, match="installed without its kernels"):
        native.kernels()


@needs_kernels
@pytest.mark.parametrize("sizes", [None, b"8 8"])
def test_a_library_of_other_sources_is_refused(monkeypatch, sizes):
    """It has its functions or their arguments in other places, so that a call would go anywhere."""

    def found() -> bytes:
        return sizes

    old = SimpleNamespace() if sizes is None else SimpleNamespace(anychip_cpu_sizes=found)
    monkeypatch.setattr(native, "CDLL", lambda path: old)
    native.library.cache_clear()
    try:
        with pytest.raises(DeviceError, match=r"was built from other sources .*; install anychip-cpu again"):
            CpuPlatform().open(threads=1)
    finally:
        native.library.cache_clear()


def test_missing_kernels_are_named_with_what_mends_it(monkeypatch):
    monkeypatch.setattr(platform, "library_path", lambda: None)
    kernels = CpuPlatform().probe().devices[0].details["kernels"]
    assert kernels.startswith("missing: no C++ compiler was found")
    assert "install g++ or clang++, then anychip-cpu again" in kernels
