"""A plugin that is broken costs its own devices and no others."""

from __future__ import annotations

import sys

import pytest
from anychip.platforms.discovery import discover
from anychip.platforms.selection import probe_all
from anychip_sdk.contract import Absent, Broken, Found

MANIFEST = (
    "from anychip_sdk.contract import Manifest, Version, hookimpl\n@hookimpl\ndef anychip_platform():\n    return "
)


def found() -> dict[str, Found | Absent | Broken]:
    return {p.plugin.name: p.result for p in probe_all()}


def broken(name: str) -> Broken:
    """The one broken platform. The real ones go on working beside it."""
    results = found()
    assert isinstance(results["cpu"], Found)
    assert isinstance(results["numpy"], Found)
    result = results[name]
    assert isinstance(result, Broken)
    assert "\n" not in result.reason
    assert result.mend.startswith("pip ")
    return result


def test_what_is_installed_is_found_best_rank_first():
    plugins = discover()
    assert [p.name for p in plugins] == ["cpu", "numpy"]
    assert [p.rank for p in plugins] == [10, 0]
    assert plugins[0].distribution.startswith("anychip-cpu ")
    assert plugins[1].distribution.startswith("anychip ")


def test_a_plugin_of_another_distribution_is_found(install):
    install("fast", 20)
    assert [p.name for p in discover()] == ["fast", "cpu", "numpy"]
    result = found()["fast"]
    assert isinstance(result, Found)
    assert result.devices[0].name == "fast"


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        ("raise RuntimeError('no driver\\nand more')", "RuntimeError: no driver"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError: "),
        ("", "its hook anychip_platform must return one Manifest, not []"),
        (MANIFEST + "'cuda'", "must return one Manifest, not ['cuda']"),
        (MANIFEST + "1 / 0", "ZeroDivisionError: division by zero"),
        (MANIFEST + "Manifest(name='Fast!', platform='a:B', summary='', rank=1)", "its name is 'Fast!'"),
        (MANIFEST + "Manifest(name='auto', platform='a:B', summary='', rank=1)", "its name is 'auto'"),
        (MANIFEST + "Manifest(name='bad', platform='a:B', summary='', rank='1')", "its rank is '1'"),
        (MANIFEST + "Manifest(name='bad', platform='a', summary='', rank=1)", "its platform is 'a'"),
        (MANIFEST + "Manifest(name='bad', platform='a:B', summary='', rank=1, contract='1.0')", "contract is '1.0'"),
    ],
)
def test_a_plugin_that_does_not_load(install, plugin, said):
    install("bad", plugin=plugin)
    result = broken("bad")
    assert said in result.reason
    assert result.reason.startswith("anychip-bad 1.0: its plugin 'anychip_bad_plugin' does not load: ")
    assert result.mend == "pip install --upgrade anychip-bad"


def test_a_plugin_whose_module_is_missing(install, tmp_path):
    install("bad")
    (tmp_path / "site/anychip_bad_plugin.py").unlink()
    assert "ModuleNotFoundError: No module named 'anychip_bad_plugin'" in broken("bad").reason


@pytest.mark.parametrize(
    ("version", "mend"),
    [("9, 0", "anychip"), ("1, 99", "anychip"), ("-1, 0", "anychip-bad")],
    ids=["major", "minor", "old"],
)
def test_a_plugin_for_another_contract(install, version, mend):
    manifest = f"Manifest(name='bad', platform='a:B', summary='', rank=1, contract=Version({version}))"
    install("bad", plugin=MANIFEST + manifest)
    result = broken("bad")
    assert result.reason.startswith(f"anychip-bad 1.0 is written for contract {version.replace(', ', '.')}, this")
    assert result.mend == f"pip install --upgrade {mend}"


def test_two_plugins_of_one_name(install):
    install("twin", distribution="anychip-one")
    install("twin", distribution="anychip-two")
    result = broken("twin")
    assert result.reason == "two plugins are called 'twin': anychip-one 1.0 and anychip-two 1.0"
    assert result.mend == "pip uninstall anychip-two"


def test_a_plugin_cannot_take_the_name_of_another(install):
    install("numpy", 99, distribution="not-numpy")
    results = found()
    assert isinstance(results["numpy"], Broken)
    assert isinstance(results["cpu"], Found)


def test_an_interrupt_is_not_a_broken_plugin(install):
    install("slow", plugin="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_what_a_plugin_prints_stays_out_of_the_output(install, capsys):
    install("loud", plugin=f"print('loading!')\n{MANIFEST}Manifest(name='loud', platform='loud_platform:Here', "
            "summary='', rank=1)", probe="print('probing!'); return Absent('none here')")  # fmt: skip
    assert found()["loud"] == Absent("none here")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "loading!\nprobing!\n"


@pytest.mark.parametrize(
    ("platform", "said"),
    [
        ("raise ImportError('libfast.so: cannot open')", "the probe failed: ImportError: libfast.so: cannot open"),
        ("import sys; sys.exit('no licence')", "the probe failed: SystemExit: no licence"),
        ("Other = 1", "the probe failed: AttributeError: "),
        ("class Here:\n    def probe(self): return 1", "is no subclass of anychip_sdk.contract.Platform"),
        (
            "from anychip_sdk.contract import Platform\nclass Here(Platform): ...",
            "TypeError: Can't instantiate abstract",
        ),
        ("from anychip_sdk.contract import Platform\nclass Here(Platform):\n    def prob(self): ...", "did you mean"),
    ],
)
def test_a_platform_that_cannot_be_made(install, platform, said):
    install("bad", platform=platform)
    assert said in broken("bad").reason


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise OSError(5, 'bus fell off')", "the probe failed: OSError: [Errno 5] bus fell off"),
        ("return None", "probe returned None instead of Found, Absent or Broken"),
        ("return Found(('fast:0',))", "instead of Found, Absent or Broken"),
    ],
)
def test_a_probe_that_fails(install, body, said):
    install("bad", probe=body)
    assert said in broken("bad").reason


def test_what_a_probe_says_is_kept(install):
    install("away", probe="return Absent('no such card')")
    install("ill", probe="return Broken('driver 1 is too old', 'apt install driver')")
    results = found()
    assert results["away"] == Absent("no such card")
    assert results["ill"] == Broken("driver 1 is too old", "apt install driver")


def test_discovery_imports_no_platform(install):
    install("lazy", platform="raise AssertionError('imported')")
    assert "lazy" in {p.name for p in discover()}
    assert "lazy_platform" not in sys.modules
