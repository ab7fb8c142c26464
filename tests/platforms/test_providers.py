"""Ops of another library: taken when asked for, never else, and never without a word on why not."""

from __future__ import annotations

import sys
from importlib import metadata

import pytest
from anychip import LLM, PlatformError, RequestError
from anychip.cli import main
from anychip.platforms.op_table import op_table
from anychip.platforms.selection import choose, open_device
from anychip_cpu import providers
from anychip_cpu.ipex_ops import IpexOps
from anychip_cpu.platform import CpuPlatform
from anychip_sdk.contract import DeviceError, NotSupported

MODULE = "intel_extension_for_pytorch"
WITH_PROVIDER = """
from anychip_sdk.contract import {names}

class Here(Platform):
    def probe(self):
        return Found((DeviceInfo(name="giver", description="planted", details={{}}),))

    def open(self, index=0, *, threads=None):
        raise DeviceError("it is planted")

    def providers(self):
        {providers}

    def open_with(self, provider, index=0, *, threads=None):
        raise DeviceError(f"it is planted, with {{provider}}")
"""


@pytest.fixture
def ipex(tmp_path, monkeypatch):
    """Plants a library of this name, version and body, beside a torch of that version."""

    def plant(version: str = "2.8.0", torch: str = "2.8.0+cpu", body: str = "") -> None:
        (tmp_path / f"{MODULE}.py").write_text(f"__version__ = {version!r}\n{body}\n")
        info = tmp_path / f"{MODULE}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)
        real = metadata.version
        monkeypatch.setattr(providers.metadata, "version", lambda name: torch if name == "torch" else real(name))

    yield plant
    sys.modules.pop(MODULE, None)


def refusal(device: str = "cpu", provider: str = "ipex") -> str:
    with pytest.raises(PlatformError) as caught:
        open_device(choose(device), 1, provider)
    message = str(caught.value)
    assert "\n" not in message
    return message


def giver(install, body: str) -> None:
    names = "Broken, DeviceError, DeviceInfo, Found, Platform, Provider"
    install("giver", platform=WITH_PROVIDER.format(names=names, providers=body))


# -- the core -----------------------------------------------------------------------------------------------------


def test_a_provider_that_the_device_does_not_have_is_refused_with_those_it_has(install):
    giver(install, "return (Provider(name='one', summary='1'), Provider(name='two', summary='2'))")
    assert refusal("giver", "three") == (
        "giver has no provider 'three'; it has one, two: choose one of these, or leave provider out"
    )
    assert refusal("numpy", "one") == "numpy has no provider 'one'; it has none: leave provider out"


def test_one_that_cannot_be_used_is_refused_with_what_mends_it(install):
    giver(install, "return (Provider(name='one', summary='1', broken=Broken('it is old', 'pip install one')),)")
    assert refusal("giver", "one") == "provider one cannot be used: it is old; to mend it: pip install one"


def test_it_is_opened_with_the_one_that_was_asked_for(install):
    giver(install, "return (Provider(name='one', summary='1'),)")
    assert refusal("giver", "one") == "giver cannot be opened: it is planted, with one"
    with pytest.raises(PlatformError, match=r"giver cannot be opened: it is planted$"):
        open_device(choose("giver"), None)


def test_a_platform_that_fails_to_say_costs_one_line(install):
    giver(install, "raise ValueError('no idea')")
    assert refusal("giver", "one") == "Here cannot say which providers it has: ValueError: no idea"


def test_it_reaches_the_engine_and_the_commands(capsys):
    with pytest.raises(PlatformError, match="cpu has no provider 'mkl'; it has ipex: choose one of these"):
        LLM("demo", "cpu", provider="mkl")
    with pytest.raises(RequestError, match="provider is 3; expected the name of a provider"):
        LLM("demo", "cpu", provider=3)
    for command in (
        ["generate", "--model", "demo", "--device", "cpu", "--provider", "mkl", "def f"],
        ["plan", "--model", "demo", "--device", "cpu", "--provider", "mkl"],
        ["conformance", "--device", "cpu", "--provider", "mkl", "--areas", "discovery"],
        ["devices", "cpu", "-v", "--provider", "mkl"],
    ):
        assert main(command) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "cpu has no provider 'mkl'; it has ipex" in err
    assert main(["devices", "--provider", "ipex"]) == 1
    assert "--provider ipex is of one device; give its NAME and -v as well" in capsys.readouterr().err


# -- IPEX on the cpu ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "torch", "found"),
    [
        ("2.8.0", "2.13.0+cpu", f"here are {MODULE} 2.8.0 and torch 2.13.0+cpu"),
        ("2.9.0", "2.9.0", f"here are {MODULE} 2.9.0 and torch 2.9.0"),
        ("2.7.0", "2.8.0", f"here are {MODULE} 2.7.0 and torch 2.8.0"),
    ],
)
def test_one_that_does_not_match_is_not_imported(ipex, version, torch, found):
    """With another torch its import ends the process."""
    ipex(version, torch, body="raise SystemExit(127)")
    mend = 'to mend it: pip install "torch==2.8.*" "intel_extension_for_pytorch==2.8.*"'
    assert refusal() == f"provider ipex cannot be used: {found}; expected 2.8 of both; {mend}"
    assert MODULE not in sys.modules
    with pytest.raises(DeviceError, match="provider ipex: here are"):
        CpuPlatform().open_with("ipex")


def test_without_it_the_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(providers, "find_spec", lambda name: None)
    assert refusal() == (
        f"provider ipex cannot be used: {MODULE} is not installed; "
        'to mend it: pip install "torch==2.8.*" "intel_extension_for_pytorch==2.8.*"'
    )
    assert main(["devices", "cpu", "-v"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if "--provider" in line)
    assert line.strip().startswith(
        "--provider ipex (Intel Extension for PyTorch 2.8, for torch 2.8): cannot be used: intel_extension"
    )


def test_an_unknown_provider_is_refused_by_the_platform_too():
    with pytest.raises(NotSupported, match="there is no provider 'mkl'; cpu has ipex"):
        CpuPlatform().open_with("mkl")


def test_it_is_never_taken_unasked(ipex):
    ipex(body="raise SystemExit(127)")
    device = open_device(choose("cpu"), 1)
    assert MODULE not in sys.modules
    assert not device.ops.provided
    assert not any("ipex" in entry.provider for entry in op_table(device))
    device.close()


def test_asked_for_it_is_named_op_by_op(ipex):
    ipex()
    device = open_device(choose("cpu"), 1, "ipex")
    assert type(device.ops) is IpexOps
    assert device.capabilities.quantize == ()
    table = {entry.op: entry for entry in op_table(device)}
    assert table["rms_norm"].provider == f"{MODULE} 2.8.0: rmsnorm"
    assert table["rms_norm"].reason == "asked for as a provider"
    assert table["linear"].provider.startswith(f"{MODULE} 2.8.0: ipex_MKLSGEMM in float32, ")
    assert table["linear"].provider.count("float16") == 2  # and bfloat16, whoever multiplies in them
    assert table["attention.attend"].provider.startswith(f"{MODULE} 2.8.0: single_query_cached_kv_attention")
    assert table["sample"].reason == "torch's own kernels (oneDNN)"
    assert not any(entry.reference for entry in table.values())
    assert set(device.ops.provided) <= set(table)
    device.close()


def test_one_that_does_not_load_is_an_error(ipex):
    ipex(body="raise ImportError('libmkl.so: no such file')")
    assert refusal() == f"cpu cannot be opened: {MODULE} is installed but does not load: libmkl.so: no such file"
