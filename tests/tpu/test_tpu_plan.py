"""`anychip plan` for TPUs that are not here."""

from __future__ import annotations

import json

import pytest
from anychip.cli import main
from anychip.platforms import discovery
from anychip.platforms.discovery import Plugin
from anychip_sdk.contract import NotSupported
from anychip_tpu import platform
from anychip_tpu.planned import PlannedTpu
from anychip_tpu.platform import TpuPlatform
from anychip_tpu.plugin import anychip_platform as manifest


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    found = [Plugin("tpu", "anychip-tpu 0.1.0", manifest(), None, 100)]
    for module in ("anychip.platforms.selection", discovery.__name__):
        monkeypatch.setattr(f"{module}.discover", lambda: found)


@pytest.fixture
def without_libtpu(monkeypatch):
    found = platform.Broken("libtpu is not installed", platform.INSTALL_LIBTPU)
    monkeypatch.setattr(platform, "_libtpu_problem", lambda: found)


def planned(capsys, *options):
    capsys.readouterr()  # of making the checkpoint
    status = main(["plan", *options])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_without_a_compiler_there_is_still_an_answer(checkpoint, capsys, without_libtpu):
    directory, _ = checkpoint("llama3")
    status, out, err = planned(capsys, "--model", str(directory), "--device", "tpu:v5e-2")
    assert (status, err) == (0, "")
    rows = {line[:16].strip(): line[17:] for line in out.splitlines()}
    assert rows["device"].endswith("tpu:v5e-2, 32.00 GiB free of 32.00 GiB")
    assert "estimated from bytes and FLOPs at the chip's published rates" in rows["decode step"]
    assert "estimated from bytes and FLOPs at the chip's published rates" in rows["prefill step"]
    assert rows["compiler"] == f"no step was compiled: libtpu is not installed; to mend it: {platform.INSTALL_LIBTPU}"
    assert rows["verdict"] == "it fits"


@pytest.mark.slow
def test_steps_are_compiled_where_libtpu_is(checkpoint, capsys, tmp_path):
    """From a config.json alone."""
    pytest.importorskip("libtpu")
    config = checkpoint("llama3")[0] / "config.json"
    directory = tmp_path / "bare"
    directory.mkdir()
    (directory / "config.json").write_bytes(config.read_bytes())
    options = ("--max-num-seqs", "8", "--max-model-len", "128", "--max-num-batched-tokens", "64")
    status, out, err = planned(capsys, "--model", str(directory), "--device", "tpu:v5e-1", *options)
    assert status == 0, err
    assert "compiling steps: 2/2" in err
    assert "compiler         decode takes " in out
    assert "MiB of each chip, prefill takes " in out


@pytest.mark.slow
def test_a_step_that_does_not_fit(checkpoint, capsys, monkeypatch):
    pytest.importorskip("libtpu")
    directory, _ = checkpoint("llama3")
    made = PlannedTpu.__init__

    def small(self, *arguments):
        made(self, *arguments)
        self._hbm = 2**10

    monkeypatch.setattr(PlannedTpu, "__init__", small)
    options = ("--max-num-seqs", "8", "--max-model-len", "128", "--max-num-batched-tokens", "64")
    status, _, err = planned(capsys, "--model", str(directory), "--device", "tpu:v5e-1", *options)
    assert status == 1
    assert "does not fit tpu:v5e-1: its decode step" in err.splitlines()[-1]
    assert "of each chip, which has" in err


@pytest.mark.parametrize("which", ["v9-4", "v5e-3", "v5e", "v5e-x", "2x2"])
def test_chips_that_nobody_makes(checkpoint, capsys, which):
    status, out, err = planned(capsys, "--model", "demo", "--device", f"tpu:{which}")
    assert (status, out) == (1, "")
    assert err == (
        f"anychip: tpu:{which} cannot be planned: there is no plan for '{which}'; expected one of v4, v5e, v5p, v6e, "
        "and one of 1, 2, 4, 8 chips, as v5e-4\n"
    )


def test_a_model_that_does_not_fit(capsys, without_libtpu, checkpoint):
    """Said from the sizes of its tensors, before anything is compiled."""
    directory, _ = checkpoint("llama3")
    options = ("--max-num-batched-tokens", str(2**27))
    status, out, err = planned(capsys, "--model", str(directory), "--device", "tpu:v5e-1", *options)
    assert (status, out) == (1, "")
    assert "tpu:v5e-1 has 16.00 GiB free: free" in err
    assert len(err.splitlines()) == 1


def test_a_mesh_that_does_not_divide_the_heads(checkpoint, capsys, without_libtpu):
    directory, _ = checkpoint("llama3")
    heads = json.loads((directory / "config.json").read_text())["num_key_value_heads"]
    assert heads % 8
    status, _, err = planned(capsys, "--model", str(directory), "--device", "tpu:v6e-8")
    assert status == 1
    assert err == (
        f"anychip: tpu:v6e-8 cannot keep this KV cache: 8 chips do not divide {heads} KV heads; use 1 or 2\n"
    )


def test_jax_that_will_not_do(monkeypatch):
    monkeypatch.setattr(platform, "find_spec", lambda _: None)
    with pytest.raises(NotSupported, match="jax is not installed; to mend it: pip install"):
        TpuPlatform().plan("v5e-4")
