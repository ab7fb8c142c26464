"""anychip conformance, from the command line to the files it leaves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from datetime import date, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from anychip.cli import main
from anychip_sdk.conformance import runner
from anychip_sdk.conformance.levels import AREAS, PROFILES

HERE = Path(__file__).parent


@pytest.fixture
def planted(monkeypatch):
    """Bugs and odd plugins can be imported by the areas' processes."""
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=":")


def conformance(out: Path, *arguments: str) -> tuple[int, dict]:
    code = main(["conformance", "--quick", "--out", str(out), *arguments])
    report = out / "report.json"
    return code, json.loads(report.read_text()) if report.exists() else {}


@pytest.fixture(scope="module")
def numpy_report(tmp_path_factory):
    out = tmp_path_factory.mktemp("numpy")
    code, data = conformance(out, "--device", "numpy", "--profile", "swa,softcap,moe")
    return out, code, data


def test_the_numpy_device_reaches_silver(numpy_report):
    _, code, data = numpy_report
    assert data["failures"] == []
    assert (code, data["level"], data["demanded"]) == (0, "silver", [])
    assert data["next level"] == "gold: only a --certify run awards it"
    assert set(data["areas"]) == set(AREAS)
    assert set(data["profiles"]) == set(PROFILES)
    assert data["profiles"]["swa"] == data["profiles"]["moe"] == data["profiles"]["softcap"] == "passed"
    assert data["profiles"]["lora"].startswith("not applicable")


def test_the_report_says_what_was_run(numpy_report):
    _, _, data = numpy_report
    assert data["device"]["name"] == "numpy"
    assert set(data["versions"]) >= {"anychip", "suite", "contract", "python", "numpy"}
    assert data["capabilities"]["weight_dtypes"] == ["float32", "float64"]
    assert data["seed"] == 0
    assert 0 < data["worst"]["ratio"] <= 1
    assert {op["op"] for op in data["ops"]} >= {"linear", "attention.attend", "allocator.layout"}
    assert {check["since"] for check in data["checks"]} == {"1.0", "1.1", "1.2", "1.3", "1.4", "1.7"}
    assert {check["level"] for check in data["checks"]} == {"bronze", "silver"}
    assert sum(area["passed"] for area in data["areas"].values()) > 300
    assert data["speed"]["step without work, ms"] > 0


def test_the_other_files_agree_with_it(numpy_report):
    out, _, data = numpy_report
    assert (
        json.loads((out / "badge.json").read_text())["message"] == f"Silver · contract {data['versions']['contract']}"
    )
    suites = ElementTree.parse(out / "junit.xml").getroot()
    assert sum(int(s.get("failures")) for s in suites) == 0
    assert sum(int(s.get("tests")) for s in suites) == len(data["checks"])
    text = (out / "report.md").read_text()
    assert text.startswith("# Conformance of numpy: Silver\n")
    assert f"| attention | {data['areas']['attention']['passed']} |" in text
    assert "What falls short" not in text
    assert "Failures" not in text


def test_the_matrix(numpy_report, tmp_path, capsys):
    out, _, _ = numpy_report
    assert main(["conformance", "matrix", str(out), str(out / "report.json"), "--svg", str(tmp_path / "m.svg")]) == 0
    header, _, first, second = capsys.readouterr().out.splitlines()
    assert header.startswith("| Device | Level | swa | softcap | sinks | moe | quant | kv8 |")
    assert first == second
    assert first.startswith("| numpy | Silver | yes | yes | yes | yes | no | yes | float32, float64 |")
    words = list(ElementTree.parse(tmp_path / "m.svg").getroot().itertext())
    assert words.count("Silver") == 2
    assert {*AREAS, "swa", "softcap", "moe"} <= set(words)


def test_the_cpu_device_reaches_silver(tmp_path):
    pytest.importorskip("anychip_cpu")
    code, data = conformance(tmp_path, "--device", "cpu")
    assert data["failures"] == []
    assert (code, data["level"]) == (0, "silver")


@pytest.mark.usefixtures("planted")
def test_an_odd_plugin_passes(tmp_path):
    """Pages of 128 tokens, buckets of powers of two, and nothing but the least."""
    code, data = conformance(tmp_path, "--plugin", "odd:manifest")
    assert data["failures"] == []
    assert (code, data["level"], data["device"]["name"]) == (0, "silver", "odd")
    assert {data["profiles"][p] for p in ("swa", "softcap", "moe")} == {"not declared"}


@pytest.mark.usefixtures("planted")
def test_a_step_plugin_passes(tmp_path):
    """It owns its graph: it has no ops to test one by one, and only the models it has graphs of."""
    code, data = conformance(tmp_path, "--plugin", "whole_graph:manifest")
    assert data["failures"] == []
    assert (code, data["level"]) == (0, "silver")
    assert {op["op"].partition(".")[0] for op in data["ops"]} == {"step"}
    assert data["areas"]["attention"]["passed"] == 0
    assert data["areas"]["executor"]["passed"] >= 8


@pytest.mark.usefixtures("planted")
def test_a_demanded_profile_must_be_there(tmp_path, capsys):
    code, data = conformance(tmp_path, "--plugin", "odd:manifest", "--areas", "discovery", "--profile", "swa")
    assert code == 1
    assert data["demanded"] == ["profile swa was asked for, but is not declared"]
    assert "profile swa was asked for" in capsys.readouterr().out


@pytest.mark.usefixtures("planted")
def test_an_overdeclared_capability_is_one_line(tmp_path, capsys):
    code, data = conformance(tmp_path, "--plugin", "bugs:manifest_softcap_overdeclared", "--areas", "attention")
    assert code == 1
    (line,) = data["claims"]
    assert line.startswith("softcap is declared, but ")
    assert line in capsys.readouterr().out
    page = (tmp_path / "report.md").read_text()
    assert f"- **Broken claim**: {line}" in page
    assert all(f"- `{check}`  \n" in page for check in data["failures"])
    assert data["profiles"]["softcap"] == "failed"
    assert data["profiles"]["moe"] == "not run"


@pytest.mark.usefixtures("planted")
def test_a_crash_is_its_area_s_failure(tmp_path):
    code, data = conformance(tmp_path, "--plugin", "bugs:manifest_segfault", "--areas", "ops,discovery")
    ops, discovery = data["areas"]["ops"], data["areas"]["discovery"]
    assert code == 1
    assert ops["ended"] == "the process died of SIGSEGV"
    assert "Segmentation fault" in ops["trace"]
    assert "in linear" in ops["trace"] or "bugs" in ops["trace"]
    assert ops["failed"] == 1
    assert ops["not run"] > 10
    assert discovery["failed"] == 0
    assert discovery["ended"] == ""
    assert data["level"] is None


@pytest.mark.usefixtures("planted")
def test_a_hang_is_its_area_s_failure(tmp_path):
    code, data = conformance(
        tmp_path, "--plugin", "bugs:manifest_never_ends", "--areas", "ops,discovery", "--time-limit", "15"
    )
    assert code == 1
    assert data["areas"]["ops"]["ended"] == "it did not end within 15 s"
    assert "bugs/ops.py" in data["areas"]["ops"]["trace"]
    assert data["areas"]["discovery"]["failed"] == 0


@pytest.fixture
def failed(planted, tmp_path):
    """A run in which the norm's checks failed."""
    out = tmp_path / "failed"
    code, data = conformance(out, "--plugin", "bugs:manifest_eps_left_out", "--areas", "ops")
    assert code == 1
    return out, data


def test_a_failure_can_be_repeated_from_its_inputs(failed, capsys, monkeypatch):
    out, data = failed
    check = data["failures"][0]
    inputs = next(c["inputs"] for c in data["checks"] if c["id"] == check)
    assert (out / "areas/ops" / inputs).is_file()
    assert f"anychip conformance repro '{check}'" in (out / "report.md").read_text()
    capsys.readouterr()
    assert main(["conformance", "repro", check, "--out", str(out)]) == 1
    said = capsys.readouterr().out
    verdict, message, *trace = said.splitlines()
    assert verdict == f"{check}: fails again"
    assert "times the budget" in message
    assert any("AssertionError" in line for line in trace)
    passed = next(c["id"] for c in data["checks"] if c["outcome"] == "passed")
    assert main(["conformance", "--out", str(out), "repro", passed]) == 0
    assert main(["conformance", "--device", "numpy", "repro", passed, "--out", str(out)]) == 1
    assert main(["conformance", "repro", "ops/nothing", "--out", str(out)]) == 1
    assert "has no check 'ops/nothing'" in capsys.readouterr().err


def waive(path: Path, ids: list[str], **fields: str) -> str:
    expiry = str(date.today() + timedelta(days=30))
    entry = {"reason": "known", "link": "https://example.org/1", "expiry": expiry} | fields
    path.write_text(json.dumps({"waiver": [{"id": i, **entry} for i in ids]}))
    return str(path)


def test_waived_failures_are_printed_and_cap_the_level(failed, tmp_path, capsys):
    _, data = failed
    asked = ["--plugin", "bugs:manifest_eps_left_out", "--areas", "ops"]
    code, waived = conformance(
        tmp_path / "w", *asked, "--waivers", waive(tmp_path / "w.json", data["failures"], reason="eps is wired")
    )
    assert code == 0
    assert waived["failures"] == []
    assert waived["areas"]["ops"]["waived"] == len(data["failures"])
    assert "eps is wired (https://example.org/1)" in capsys.readouterr().out
    extra = waive(tmp_path / "e.json", [*data["failures"], "ops/embedding[float32-1.0]"])
    code, strict = conformance(tmp_path / "s", *asked, "--waivers", extra)
    assert (code, strict["failures"]) == (1, ["ops/embedding[float32-1.0]"])


def test_waivers_of_what_this_run_leaves_out_are_known(tmp_path):
    """One file serves quick runs and full ones, of all areas and of some."""
    ids = ["attention/windows[float32-20-decodes]", "executor/soak[float32]", "ops/linear[float32-False-64-96-64]"]
    waivers = waive(tmp_path / "w.json", ids)
    code, data = conformance(tmp_path, "--device", "numpy", "--areas", "discovery", "--waivers", waivers)
    assert (code, data["failures"]) == (0, [])
    assert [w["id"] for w in data["waivers"]] == ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[waiver]]\nid = "ops/no"\nreason = "r"\nlink = "l"\nexpiry = 2999-01-01', "'ops/no', which is no check"),
        ('[[waiver]]\nid = "ops/x"\nreason = "r"\nlink = "l"\nexpiry = 2020-01-01', "expired on 2020-01-01"),
        ('[[waiver]]\nid = "ops/x"\nreason = "r"\nexpiry = 2999-01-01', "waiver 1"),
        ('[[waiver]]\nid = "ops/x"\nreason = ""\nlink = "l"\nexpiry = 2999-01-01', "must be texts"),
        ("[[waivers]]\n", "must hold a list of waivers"),
        ("waiver = [", "not valid TOML"),
    ],
    ids=["unknown", "expired", "incomplete", "empty", "misnamed", "broken"],
)
def test_waivers_are_read_strictly(tmp_path, capsys, text, said):
    file = tmp_path / "waivers.toml"
    file.write_text(text)
    code, _ = conformance(tmp_path, "--device", "numpy", "--areas", "discovery", "--waivers", str(file))
    assert code == 1
    assert said in capsys.readouterr().err


def test_an_interrupt_ends_the_areas_that_run_at_once(tmp_path, monkeypatch):
    """No signal to the command reaches them, and waiting for them may take an hour."""
    both, begun, wait = threading.Barrier(2), {}, runner._wait

    def waiting(process, limit):
        begun[area := process.args[-1]] = process
        both.wait(60)
        if area == "ops":
            raise KeyboardInterrupt
        return wait(process, limit)

    def sleeping(area, *_):
        return [sys.executable, "-c", "import signal; signal.pause()", area]

    monkeypatch.setattr(runner, "_wait", waiting)
    monkeypatch.setattr(runner, "command", sleeping)
    request = runner.Request("numpy", None, None, "quick", 0, tmp_path, areas=("ops", "kv_write"), jobs=2)
    with pytest.raises(KeyboardInterrupt):
        runner.run(request)
    begun["ops"].kill()
    assert begun["kv_write"].poll() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "abacus"], "there is no device 'abacus'"),
        ([], "no device was named"),
        (["--device", "numpy", "--areas", "tea"], "there is no area 'tea'; known: discovery"),
        (["--device", "numpy", "--profile", "tea"], "there is no profile 'tea'; known: swa"),
        (["--plugin", "nowhere"], "expected MODULE:FUNCTION"),
        (["--plugin", "nowhere:at_all"], "No module named 'nowhere'"),
        (["--plugin", "json:dumps"], "expected a Manifest"),
        (["--device", "numpy", "--waivers", "/nowhere.toml"], "cannot read the waivers"),
        (["--device", "numpy", "--jobs", "0"], "--jobs is 0; expected a whole number >= 1"),
        (["--device", "numpy", "--seed", "-1"], "--seed is -1; expected a whole number >= 0"),
        (["--device", "numpy", "--time-limit", "nan"], "--time-limit is nan; expected a number of seconds above 0"),
        (["--device", "numpy", "--out", __file__], f"--out is {__file__}: File exists; give a folder that can be writ"),
        (["--plugin", "anychip_sdk.kits.numpy.plugin:anychip_platform", "--device", "x:y"], "--device is 'x:y'; with"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, capsys, arguments, said):
    assert conformance(tmp_path, *arguments)[0] == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("numpy", 'the suite needs pytest and hypothesis; install it with pip install "anychip[conformance]"\n'),
        ("nmupy", "there is no device 'nmupy'; installed: "),
    ],
)
def test_without_the_extra_it_says_what_to_install(tmp_path, device, said):
    """In a process of its own, in which the two cannot be imported. What would be wrong with it too comes first."""
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None; from anychip.cli import main; "
        f"sys.exit(main(['conformance', '--device', {device!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"anychip: {said}")
    assert list(tmp_path.iterdir()) == []


def test_vendors_run_it_in_their_own_pytest(tmp_path):
    command = [
        sys.executable, "-m", "pytest", "--pyargs", "anychip_sdk.conformance.areas.test_ops", "-q",
        "-p", "anychip_sdk.conformance.plugin", "--anychip-device", "numpy", "--anychip-tier", "quick",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_areas_are_files():
    assert all((runner.AREA_FILES / f"test_{area}.py").is_file() for area in AREAS)
