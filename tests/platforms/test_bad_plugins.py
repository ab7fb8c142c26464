"""Every bad plugin is one clear line of `anychip devices`, beside all the good ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from anychip import LLM, PlatformError
from anychip.cli import main
from anychip.platforms import isolation

MANIFEST = (
    "from anychip_sdk.contract import Manifest, Version, hookimpl\n@hookimpl\ndef anychip_platform():\n    return "
)
GOOD = MANIFEST + "Manifest(name='bad', platform='bad_platform:Here', summary='', rank=1)"
HANG = "import sys; sys.gate.wait()"
DEVICE = """
from anychip_sdk.contract import Memory
from anychip_sdk.kits.numpy import NumpyAllocator, NumpyDevice
from anychip_sdk.contract import DeviceInfo, Found, Platform

class Pages(NumpyAllocator):
    def memory(self):
        {memory}

class Here(Platform):
    def probe(self):
        return Found((DeviceInfo(name="bad", description="planted", details={{}}),))

    def open(self, index=0, *, threads=None):
        device = NumpyDevice(self.probe().devices[0])
        device.allocator = Pages()
        {then}
        return device
"""


@pytest.fixture
def short(monkeypatch):
    """A short limit. What hangs waits for `sys.gate`, which opens at the end, so that no thread stays behind."""
    monkeypatch.setattr(isolation, "SECONDS", 0.3)
    monkeypatch.setattr(sys, "gate", threading.Event(), raising=False)
    yield
    sys.gate.set()


def line(capfd, *arguments: str) -> str:
    """What is said of the plugin `bad`. The real platforms are listed as ever."""
    assert main(["devices", *arguments]) == 0
    out = capfd.readouterr().out
    lines = {found.split()[0]: found for found in out.splitlines() if found[0] != " "}
    assert lines.keys() >= {"cpu", "numpy"}
    assert " found " in lines["cpu"]
    assert " found " in lines["numpy"]
    assert sum(found.startswith("bad ") for found in out.splitlines()) == 1
    return lines["bad"]


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
        ("import sys; sys.exit()", "SystemExit: no message; expected a module that returns"),
        ("def broken(:", "SyntaxError: "),
    ],
    ids=["raises", "exits", "syntax"],
)
def test_a_module_that_does_not_load(install, capfd, plugin, said):
    install("bad", plugin=plugin)
    found = line(capfd)
    assert found.startswith("bad          broken  anychip-bad 1.0: its plugin 'anychip_bad_plugin' does not load: ")
    assert said in found
    assert found.endswith("; to mend it: pip install --upgrade anychip-bad")


def test_a_module_that_is_missing(install, capfd, tmp_path):
    install("bad")
    (tmp_path / "site/anychip_bad_plugin.py").unlink()
    assert line(capfd).endswith(
        "does not load: ModuleNotFoundError: No module named 'anychip_bad_plugin'; expected the module that its entry "
        "point names; to mend it: pip install --upgrade anychip-bad"
    )


def test_a_module_that_hangs(install, capfd, short):
    install("bad", plugin=f"{HANG}\n{GOOD}")
    assert "NoAnswer: no answer within 0.3 s; expected a module that imports nothing heavy" in line(capfd)


def test_a_later_major(install, capfd):
    install("bad", plugin=MANIFEST + "Manifest(name='bad', platform='a:B', summary='', rank=1, contract=Version(9, 0))")
    assert line(capfd) == (
        "bad          broken  anychip-bad 1.0 is written for contract 9.0, this anychip has 1.8 and runs 1.0 to 1.8; "
        "to mend it: pip install --upgrade anychip"
    )


def test_two_of_one_name(install, capfd):
    install("bad", distribution="anychip-one")
    install("bad", distribution="anychip-two")
    assert line(capfd) == (
        "bad          broken  two plugins are called 'bad': anychip-one 1.0 and anychip-two 1.0; "
        "to mend it: pip uninstall anychip-two"
    )


def test_a_probe_that_hangs(install, capfd, short):
    install("bad", probe=HANG)
    assert line(capfd) == (
        "bad          broken  anychip-bad 1.0: the probe hangs: no answer within 0.3 s; expected one that looks "
        "at files and metadata only; to mend it: pip install --upgrade anychip-bad"
    )
    with pytest.raises(PlatformError, match=r"bad is broken: anychip-bad 1\.0: the probe hangs"):
        LLM("demo", "bad")


def test_a_timeout_of_its_own_is_not_taken_for_a_hang(install, capfd):
    install("bad", probe="raise TimeoutError('licence server')")
    assert "the probe failed: TimeoutError: licence server" in line(capfd)


@pytest.mark.parametrize("body", ["import threading; threading.Event().wait()", "exec('while True: pass')"])
def test_the_process_ends_though_a_probe_never_does(install, tmp_path, body):
    install("bad", probe=body)
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "anychip", "devices"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert {found.split()[0] for found in done.stdout.splitlines()} == {"bad", "cpu", "numpy"}
    assert "no answer within 5 s" in done.stdout


def test_whatever_it_prints_is_not_in_the_output(install, capfd):
    """Its own prints, and those of a library or a child process that knows the file descriptor only."""
    noise = "import os; print('hello'); os.write(1, b'banner\\n'); os.system('echo tool')"
    install("bad", plugin=f"{noise}\n{GOOD}", probe=f"{noise}; return Absent('none\\nhere')")
    assert main(["devices"]) == 0
    out, err = capfd.readouterr()
    assert [found.split()[0] for found in out.splitlines()] == ["cpu", "bad", "numpy"]
    assert "bad          absent  none here  (anychip-bad 1.0)" in out
    assert sorted(err.split()) == sorted(["hello", "banner", "tool"] * 2)


@pytest.mark.parametrize(
    "body",
    ["return Absent(None)", "return Broken('ill', None)", "return Found(None)", "return Found((DeviceInfo(name=1, "
     "description='', details={}),))"],
)  # fmt: skip
def test_a_probe_that_answers_nonsense(install, capfd, body):
    install("bad", probe=body)
    assert "anychip-bad 1.0: " in (found := line(capfd))
    assert found.endswith("; to mend it: pip install --upgrade anychip-bad")


def test_a_platform_that_finds_nothing_is_listed_too(install, capfd):
    install("bad", probe="return Found(())")
    assert line(capfd) == "bad          absent  its probe found no device  (anychip-bad 1.0)"


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ("return Memory(0, 0)", "bad reports 0 bytes free of 0 in all; expected more than 0 in all, and no more free "
         "than that: check the device and its driver, or pip install --upgrade anychip-bad"),
        ("return Memory(9, 4)", "bad reports 9 bytes free of 4 in all; expected "),
        ("return None", "bad cannot tell its memory: AttributeError: "),
        ("raise OSError('bus fell off')", "bad cannot tell its memory: OSError: bus fell off; anychip-bad 1.0 has to "),
    ],
    ids=["none", "negative", "nothing", "raises"],
)  # fmt: skip
def test_a_device_without_memory(install, capfd, memory, said):
    install("bad", platform=DEVICE.format(memory=memory, then=""))
    assert main(["devices", "-v"]) == 0
    lines = capfd.readouterr().out.splitlines()
    at = lines.index("bad          found   planted  (anychip-bad 1.0)")
    assert lines[at + 1].startswith(f"    {said}")
    assert lines[at + 2].startswith("cpu ")
    with pytest.raises(PlatformError) as caught:
        LLM("demo", "bad")
    assert str(caught.value).startswith(said)


def test_a_device_that_lacks_a_part(install, capfd):
    install("bad", platform=DEVICE.format(memory="return Memory(1, 1)", then="del device.ops"))
    assert main(["devices", "-v"]) == 0
    assert "    bad of anychip-bad 1.0 is not whole: AttributeError: " in capfd.readouterr().out


def test_a_device_that_cannot_be_opened_is_one_line(install, capfd):
    install("bad", open="print('banner'); raise OSError('no\\npermission')")
    assert main(["devices", "-v"]) == 0
    out, err = capfd.readouterr()
    assert "    bad cannot be opened: OSError: no\n" in out
    assert err == "banner\n"
