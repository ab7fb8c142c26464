"""anychip doctor: one report with everything that a bug report needs."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

import pytest
from anychip import __version__
from anychip.cli import main
from anychip.platforms import doctor
from anychip_sdk.contract import CONTRACT_VERSION
from anychip_sdk.scaffold import write_plugin


def report(capfd) -> dict:
    assert main(["doctor", "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def platforms(capfd) -> dict[str, dict]:
    return {found["name"]: found for found in report(capfd)["platforms"]}


def test_it_has_every_part(capfd):
    found = report(capfd)
    versions = found["versions"]
    assert (versions["python"], versions["anychip"]) == (platform.python_version(), __version__)
    assert versions["contract"] == str(CONTRACT_VERSION)
    assert versions["numpy"] == version("numpy")
    assert versions["anychip-cpu"] == version("anychip-cpu")
    assert {"torch", "jax", "safetensors"} <= versions.keys()
    assert found["system"].keys() == {"os", "machine", "cpu", "cores"}
    assert all(found["system"].values())
    assert 0 < found["model cache"]["free"] <= found["model cache"]["total"]


def test_every_device_tells_its_memory_and_what_runs_on_reference_code(capfd):
    for name, found in platforms(capfd).items():
        assert found["state"] == "found"
        (device,) = found["devices"]
        assert device["name"] == name
        assert 0 < device["memory"]["free"] <= device["memory"]["total"]
        assert "float32" in device["weights in"]
        assert (device["problem"], device["reference ops"]) == ("", [])


def test_the_text_says_the_same(capfd):
    found = report(capfd)
    assert main(["doctor"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line[0] != " "] == ["versions", "system", "platforms", "model cache"]
    for title in ("versions", "system"):
        assert {tuple(line.split(maxsplit=1)) for line in lines} >= set(found[title].items())
    assert any(line.startswith("  cpu  ") and " found  (anychip-cpu " in line for line in lines)
    assert "      ops on reference code: none" in lines
    assert lines[-1].startswith(f"  {found['model cache']['path']}: ")


def test_what_is_broken_is_named_with_what_mends_it(install, capfd):
    install("ill", plugin="import no_such_module")
    install("away", probe="return Absent('no such card')")
    install("shut", open="raise OSError('no permission')")
    found = platforms(capfd)
    assert found["ill"]["state"] == "broken"
    assert found["ill"]["distribution"] == "anychip-ill 1.0"
    assert "No module named 'no_such_module'" in found["ill"]["reason"]
    assert found["ill"]["mend"] == "pip install --upgrade anychip-ill"
    assert (found["away"]["state"], found["away"]["reason"]) == ("absent", "no such card")
    (device,) = found["shut"]["devices"]
    assert device["problem"] == "shut cannot be opened: OSError: no permission"
    assert device["memory"] is None
    assert main(["doctor"]) == 0
    out = capfd.readouterr().out
    assert "    mend: pip install --upgrade anychip-ill\n" in out
    assert "      problem: shut cannot be opened: OSError: no permission\n" in out


def test_versions_come_from_what_the_platforms_need(install, capfd, tmp_path):
    install("fussy")
    needs = ["packaging (>=1)", "no-such-thing>=2", "never ; python_version < '3'", "extra-thing ; extra == 'x'", "!!"]
    with (tmp_path / "site/anychip_fussy-1.0.dist-info/METADATA").open("a") as file:
        file.writelines(f"Requires-Dist: {need}\n" for need in needs)
    versions = report(capfd)["versions"]
    assert versions["no-such-thing"] == "not installed"
    assert versions["packaging"] == version("packaging")
    assert not {"never", "extra-thing", "!!"} & versions.keys()


def test_reference_code_is_listed(capfd, tmp_path, monkeypatch):
    root = write_plugin("plain", "numpy", "ops", tmp_path).root
    monkeypatch.syspath_prepend(root / "src")
    info = tmp_path / "site/anychip_plain-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: anychip-plain\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[anychip.platforms]\nplain = anychip_plain.plugin\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (device,) = platforms(capfd)["plain"]["devices"]
    assert {"linear", "attention.attend", "allocator.layout"} <= set(device["reference ops"])


@pytest.mark.parametrize("text", ["", "processor\t: 0\nmodel name\t: Some Chip\n"])
def test_the_processor_where_linux_names_it_and_where_it_does_not(capfd, monkeypatch, tmp_path, text):
    monkeypatch.setattr(doctor, "CPUINFO", tmp_path / "cpuinfo")
    if text:
        (tmp_path / "cpuinfo").write_text(text)
    cpu = report(capfd)["system"]["cpu"]
    assert cpu == "Some Chip" if text else cpu in (platform.processor(), platform.machine())
