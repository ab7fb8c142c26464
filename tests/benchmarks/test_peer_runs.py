"""How a peer is built and run: the same protocol for every engine, and a reason where it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from peers import engines, machine, run_anychip, runner, venvs
from peers.engines import Engine
from peers.machine import Times

RUNNER = """
import sys
from peers import runner

class Fake:
    def __init__(self, model, format):
        self.format = format
    def generate(self, work):
        return [[int(self.format)] * n for _, n in work]
    def forget(self):
        pass

if sys.argv[2] == "broken":
    raise SystemExit("ValueError: no such format\\n")
runner.main(("json",), Fake)
"""


class Forgetful:
    def __init__(self, made):
        self.made, self.forgotten = made, 0

    def generate(self, work):
        return self.made

    def forget(self):
        self.forgotten += 1


def test_an_engine_starts_each_workload_with_an_empty_cache():
    engine = Forgetful([[1, 2], [3] * 9])
    found = runner.timed(engine, [([5], 2), ([6], 9)])
    assert engine.forgotten == 1
    assert (found["tokens"], found["head"]) == (11, [1, 2])


def test_less_work_than_asked_for_is_an_error():
    with pytest.raises(RuntimeError, match=r"tokens made per request are \[1\]; expected \[2\]"):
        runner.timed(Forgetful([[1]]), [([5], 2)])


def started(tmp_path, monkeypatch, format):
    (tmp_path / "run_fake.py").write_text(RUNNER)
    path = f"{tmp_path}:{Path(engines.__file__).parents[1]}"
    fake = Engine("fake", "run_fake", {"PYTHONPATH": path})
    monkeypatch.setattr(engines, "ENGINES", {"fake": fake})
    return engines.run("fake", Path(sys.executable), tmp_path, format, {"single": [([5, 6], 3)]})


def test_a_run_is_a_process_that_says_what_it_found(tmp_path, monkeypatch):
    found = started(tmp_path, monkeypatch, "7")
    assert found["workloads"]["single"]["head"] == [7, 7, 7]
    assert found["ready_s"] >= found["load_s"] >= 0


def test_a_run_that_fails_says_why(tmp_path, monkeypatch):
    with pytest.raises(venvs.UnusableError, match="failed in broken: ValueError: no such format"):
        started(tmp_path, monkeypatch, "broken")


def test_torch_is_installed_with_what_its_build_needs_and_the_rest_as_pinned(tmp_path):
    pins = tmp_path / "peer.txt"
    pins.write_text("# Python 3.11\nnumpy==2.4.6\ntorch==2.13.0\ntorchless==1\n")
    assert venvs.installs(pins) == [["-c", str(pins), "torch==2.13.0"], ["--no-deps", "-r", str(pins)]]
    pins.write_text("numpy==2.4.6\n")
    assert venvs.installs(pins) == [["--no-deps", "-r", str(pins)]]


@pytest.mark.parametrize("peer", engines.PEERS)
def test_every_peer_has_exact_pins(peer):
    lines = [line for line in (venvs.PINS / f"{peer}.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    assert any(line.startswith(f"{engines.ENGINES[peer].package}==") for line in lines)


def test_an_environment_with_the_same_pins_is_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(venvs, "PINS", tmp_path)
    (tmp_path / "peer.txt").write_text("numpy==2.4.6\n")
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer/pins.txt").write_text("numpy==2.4.6\n")
    assert venvs.python("peer", tmp_path) == tmp_path / "peer/bin/python"


def test_a_peer_that_cannot_be_installed_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(venvs, "PINS", tmp_path)
    (tmp_path / "peer.txt").write_text("numpy==2.4.6\n")
    pip = tmp_path / "peer/bin/python"
    pip.parent.mkdir(parents=True)
    pip.write_text("#!/bin/sh\necho downloading\necho 'ERROR: no matching distribution'\nexit 1\n")
    pip.chmod(0o755)
    with pytest.raises(venvs.UnusableError, match="cannot be installed: ERROR: no matching distribution"):
        venvs.python("peer", tmp_path)
    assert not (tmp_path / "peer/pins.txt").exists()


def test_the_last_error_is_what_went_wrong():
    assert venvs.last_words("a\nRuntimeError: too few pages\n  in a file\n") == "RuntimeError: too few pages"
    assert venvs.last_words("a\nb\n\n") == "b"
    assert venvs.last_words("") == "no output"


def test_others_are_what_neither_idled_nor_was_ours():
    assert machine.others(Times(10, 100, 1), Times(14, 110, 3)) == 0.2
    assert machine.others(Times(10, 100, 1), Times(14, 110, 9)) == 0.0
    assert machine.others(None, None) is None


def test_the_better_of_two_measurements_counts():
    first = {"read_gb_s": 20.0, "gop_s": {"float32": 190.0, "int8": 500.0}}
    second = {"read_gb_s": 22.0, "gop_s": {"float32": 180.0, "int8": 510.0}}
    assert machine.better(first, second) == {"read_gb_s": 22.0, "gop_s": {"float32": 190.0, "int8": 510.0}}


def test_this_machine_has_a_name():
    assert machine.describe()["processor"]
    assert json.dumps(machine.describe())


class Willing(Forgetful):
    def generate(self, work):
        return [[7] * count for _, count in work]


def test_decoding_stands_between_two_readings(monkeypatch):
    readings = iter(range(40, 40 + run_anychip.ROUNDS + 1))
    monkeypatch.setattr(machine, "reader", lambda: lambda seconds: next(readings))
    engine = Willing([])
    found = run_anychip.decoding(engine, {"single": [([5, 6], 4)], "batch": []})["decode"]
    assert [read for _, read in found] == list(range(41, 41 + run_anychip.ROUNDS))
    assert len(found) == run_anychip.ROUNDS
    assert run_anychip.decoding(engine, {"batch": []}) == {}
