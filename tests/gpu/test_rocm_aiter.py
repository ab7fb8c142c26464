"""The provider `aiter` of the platform `rocm`, with a stand-in for AITER that computes in torch on the host."""

from __future__ import annotations

import sys

import pytest
import torch
from anychip.platforms.op_table import op_table
from anychip_rocm import kernel_driver, providers
from anychip_rocm.aiter_ops import AiterOps, narrowed
from anychip_rocm.device import RocmDevice
from anychip_rocm.kernel_driver import Card
from anychip_rocm.platform import RocmPlatform
from anychip_rocm.tiles import TILES
from anychip_sdk.contract import Broken, DeviceError, NotSupported, WeightSpec
from anychip_sdk.kits.solo import Solo
from anychip_sdk.kits.torch.weights import Weight, join
from anychip_sdk.kits.triton import Recorder
from installed import install
from torch_cases import ORACLE, both, close, draw, wide

STAND_IN = '''
"""AITER's functions, by the signatures of its releases."""
import torch
from torch.nn import functional

def rms_norm(input, weight, epsilon, use_model_sensitive_rmsnorm=0):
    assert input.dtype == weight.dtype and input.dim() == 2 and input.is_contiguous()
    return functional.rms_norm(input.float(), (input.shape[1],), weight.float(), epsilon).to(input.dtype)

def rmsnorm2d_fwd_with_add(out, input, residual_in, residual_out, weight, epsilon):
    residual_out.copy_(input + residual_in)
    out.copy_(rms_norm(residual_out, weight, epsilon))

def _gated(act, out, input):
    assert input.is_contiguous()
    gate, up = input.float().chunk(2, -1)
    out.copy_(act(gate) * up)

def silu_and_mul(out, input):
    _gated(functional.silu, out, input)

def gelu_tanh_and_mul(out, input):
    _gated(lambda x: functional.gelu(x, approximate="tanh"), out, input)
'''


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Plants a module of this body, as a distribution of this name."""

    def make(body: str = STAND_IN, name: str = "amd-aiter") -> None:
        (tmp_path / "aiter.py").write_text(body)
        info = tmp_path / f"{name.replace('-', '_')}-0.1.27.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.27\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield make
    sys.modules.pop("aiter", None)


@pytest.fixture
def card(tmp_path, monkeypatch):
    """One MI300, and a torch that is built for it."""
    folder = tmp_path / "packages"
    folder.mkdir()
    install(monkeypatch, folder, torch="2.11.0+rocm7.0", hip="7.0.1", triton="3.6.0")
    monkeypatch.setattr(kernel_driver, "cards", lambda: (Card(0, "gfx942", 192 << 30, 304),))
    monkeypatch.setattr(kernel_driver, "may_open", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


def ops() -> AiterOps:
    """On the host, where the Triton kernels are only noted down."""
    return AiterOps(Solo(), Recorder(), TILES["gfx942"])


def on_host(device: RocmDevice) -> RocmDevice:
    device._device, device._join = torch.device("cpu"), join
    return device


def refusal() -> str:
    with pytest.raises(DeviceError) as error:
        RocmPlatform().open_with("aiter")
    return str(error.value)


def test_without_it_the_provider_says_how_to_get_it(plant):
    (found,) = RocmPlatform().providers()
    assert (found.name, found.broken) == ("aiter", Broken("AITER is not installed", providers.INSTALL))
    assert refusal() == f"provider aiter: AITER is not installed; to mend it: {providers.INSTALL}"
    with pytest.raises(NotSupported, match="there is no provider 'mkl'; rocm has aiter"):
        RocmPlatform().open_with("mkl")


def test_another_module_of_that_name_is_not_imported(plant):
    plant("raise SystemExit(1)", name="aiter")
    assert "is not AMD's: there is no amd-aiter" in refusal()
    assert "aiter" not in sys.modules


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise OSError('libamdhip64.so: no such file')", "aiter is installed but does not load: libamdhip64.so: no"),
        (STAND_IN.replace("def silu_and_mul", "def _"), "aiter 0.1.27 has no silu_and_mul; install a newer one"),
    ],
    ids=["broken", "old"],
)
@pytest.mark.usefixtures("card")
def test_one_that_cannot_be_used_is_an_error(plant, body, reason):
    plant(body)
    assert RocmPlatform().providers()[0].broken is None  # the probe imports nothing
    assert refusal().startswith(reason)


@pytest.mark.usefixtures("card")
def test_it_is_never_taken_unasked(plant):
    plant("raise SystemExit(1)")
    device = RocmPlatform().open()
    assert "aiter" not in sys.modules
    assert not device.ops.provided


@pytest.mark.usefixtures("card")
def test_asked_for_it_is_named_op_by_op(plant):
    plant()
    device = RocmPlatform().open_with("aiter")
    table = {entry.op: entry for entry in op_table(device)}
    assert set(device.ops.provided) == {"rms_norm", "add_rms_norm", "gated_mlp"} <= set(table)
    assert table["gated_mlp"].provider.startswith("aiter 0.1.27: silu_and_mul, gelu_tanh_and_mul; ")
    assert not any(entry.reference for entry in table.values())
    device.close()


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_it_computes(plant, dtype):
    """Norms of any rank and strides, alone and with a residual that stays as it was, and both activations."""
    plant()
    device = on_host(RocmPlatform().open_with("aiter"))
    device.ops._launch = Recorder()
    norm, oracle = both(device, WeightSpec((("n",),), "norm"), {"n": draw(16)}, dtype)
    x = draw(6, 32, dtype=dtype)[:, 8:24]
    for rows in (x, draw(3, 2, 16, dtype=dtype)):
        close(device.ops.rms_norm(rows, norm, 1e-5), ORACLE.ops.rms_norm(wide(rows), oracle, 1e-5), dtype, terms=16)
    residual = draw(6, 16, dtype=dtype, seed=1)
    before = residual.clone()
    y, total = device.ops.add_rms_norm(x, residual, norm, 1e-5)
    assert residual.equal(before)
    assert total.equal(x + residual)
    close(y, ORACLE.ops.rms_norm(wide(total), oracle, 1e-5), dtype, terms=16)
    tensors = {"g": draw(24, 16), "u": draw(24, 16), "d": draw(16, 24)}
    up = both(device, WeightSpec((("g",), ("u",)), "linear", tp="out"), tensors, dtype)
    down = both(device, WeightSpec((("d",),), "linear", tp="in"), tensors, dtype)
    for kind in ("silu", "gelu_tanh"):
        got = device.ops.gated_mlp(x, up[0], down[0], kind)
        wanted = ORACLE.ops.gated_mlp(wide(x), up[1], down[1], kind)
        assert abs(wide(got) - wanted).max() <= 3 * 2.0**-7 * abs(wanted).max()
    assert not device.ops._launch.launches


def test_what_is_left_to_the_triton_kernels(plant):
    plant()
    theirs = ops()

    def launched(dtype, width, scale=1.0):
        kind = getattr(torch, dtype)
        w = narrowed(Weight(torch.full((width,), scale)), kind)
        theirs._launch.launches.clear()
        theirs.rms_norm(torch.ones(2, width, dtype=kind), w, 1e-5)
        return [launch.kernel.__name__ for launch in theirs._launch.launches]

    assert launched("bfloat16", 16) == []
    assert launched("float32", 16) == ["rms_norm_kernel"]
    assert launched("bfloat16", 12) == ["rms_norm_kernel"]
    assert launched("bfloat16", 16, scale=1.001) == ["rms_norm_kernel"]  # would be rounded
    assert launched("float16", 16, scale=1.5) == []


def test_a_function_that_fails_is_a_fault_of_the_device(plant):
    plant(STAND_IN.replace("    assert input.dtype", "    raise KeyError('no hipcc')\n    assert input.dtype"))
    w = narrowed(Weight(torch.ones(16)), torch.float16)
    with pytest.raises(DeviceError, match="aiter's rms_norm failed: 'no hipcc'"):
        ops().rms_norm(torch.ones(2, 16, dtype=torch.float16), w, 1e-5)
