"""Every package that `anychip plugin new` can write installs, is found, and runs the demo model."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import editable
import pytest
from anychip import LLM, SamplingParams
from anychip.cli import main
from anychip_sdk.scaffold import FRAMEWORKS, KINDS, ScaffoldError, check_name, write_plugin

PROMPT = "Return a list"
GREEDY = SamplingParams(temperature=0, max_tokens=8)
COMBINATIONS = [(framework, kind) for framework in FRAMEWORKS for kind in KINDS]
needs_jax = pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
RUNNABLE = [pytest.param(f, k, marks=needs_jax if f == "jax" else ()) for f, k in COMBINATIONS]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> Callable[[str, str], str]:
    """framework, kind -> the name of a device that the command made. Every test makes another."""

    def make(framework: str, kind: str) -> str:
        name = f"{framework}-{kind}"
        arguments = ["plugin", "new", name, "--framework", framework, "--kind", kind, "--out", str(tmp_path)]
        assert main(arguments) == 0
        root = tmp_path / f"anychip-{name}"
        editable.install(root, tmp_path / "site")
        monkeypatch.syspath_prepend(tmp_path / "site")
        capfd.readouterr()
        return name

    before = set(sys.modules)
    yield make
    for module in set(sys.modules) - before:
        if module.startswith(tuple(f"anychip_{f}_{k}" for f, k in COMBINATIONS)):
            del sys.modules[module]


@pytest.fixture(scope="module")
def reference() -> str:
    with LLM("demo", "numpy") as llm:
        return llm.generate(PROMPT, GREEDY)[0].outputs[0].text


@pytest.mark.parametrize(("framework", "kind"), COMBINATIONS)
def test_it_is_a_whole_package_of_at_most_50_lines(tmp_path, framework, kind):
    done = write_plugin("acme", framework, kind, tmp_path)
    assert done.root == tmp_path / "anychip-acme"
    names = {str(path.relative_to(done.root)) for path in done.files}
    assert names >= {"pyproject.toml", "README.md", ".gitignore", ".github/workflows/ci.yml",
                     "src/anychip_acme/plugin.py", "tests/test_conformance.py"}  # fmt: skip
    python = [path for path in done.files if path.suffix == ".py"]
    assert sum(len(path.read_text().splitlines()) for path in python) == done.lines <= 50
    for path in done.files:
        text = path.read_text()
        assert "$" not in text or path.name == "README.md", path
        assert max(map(len, text.splitlines()), default=0) <= 120, path
        assert not text or text.endswith("\n")
    imported = {
        module.partition(".")[0]
        for path in python
        if "tests" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        for module in ([node.module] if isinstance(node, ast.ImportFrom) else
                       [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
    }  # fmt: skip
    assert imported <= {"anychip_sdk", "anychip_acme", "importlib", framework}


@pytest.mark.parametrize(("framework", "kind"), COMBINATIONS)
def test_what_it_writes_is_clean(tmp_path, framework, kind):
    if find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    root = write_plugin("acme", framework, kind, tmp_path).root
    for command in (["check", "--select", "E,F,W,I,UP,B"], ["format", "--check"]):
        lengths = ["--line-length", "120", "--isolated"]
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *lengths, str(root)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("framework", "kind"), RUNNABLE)
def test_it_is_found_and_says_where_its_ops_come_from(install, capfd, framework, kind):
    name = install(framework, kind)
    assert main(["devices", "-v"]) == 0
    out = capfd.readouterr().out
    assert f"{name:12} found   {name} on reference ops  (anychip-{name} 0.1.0)" in out
    mine = out.partition(f"{name} on reference ops")[2].partition("\nnumpy  ")[0]
    op = "step.run" if kind == "step" else "attention.attend"
    (line,) = [line for line in mine.splitlines() if line.split()[0] == op]
    assert line.endswith(": reference code: the platform has none")


@pytest.mark.parametrize(("framework", "kind"), RUNNABLE)
def test_it_runs_the_demo_model_as_the_reference_does(install, reference, caplog, framework, kind):
    caplog.set_level(logging.INFO, "anychip_sdk.kits.jax.programs")
    with LLM("demo", install(framework, kind), warm_up=False) as llm:  # one prompt needs few of the steps
        assert llm.generate(PROMPT, GREEDY)[0].outputs[0].text == reference
    compiled = [record for record in caplog.records if record.message.startswith("compiled StepKey")]
    assert len(compiled) == (2 if framework == "jax" else 0)  # one for the prompt, one for all decodes


@needs_jax
def test_the_step_kit_compiles_for_the_device_s_kinds_of_sampling():
    import jax
    from anychip_sdk.contract import Capabilities, DeviceInfo, SampleKind
    from anychip_sdk.kits.jax import JaxDevice, Ranks
    from anychip_sdk.kits.steps import KitSteps

    info = DeviceInfo(name="x", description="x", details={})
    claims = Capabilities(weight_dtypes=("float32",), kv_dtypes=("float32",))
    device = JaxDevice(info, claims, Ranks.of(jax.devices("cpu")[:1]))
    assert KitSteps(device).sample_kind(SampleKind(edits=2)) == device.sample_kind(SampleKind(edits=1))


@pytest.mark.slow
@pytest.mark.timeout(900)  # every shape of JAX's is compiled
@pytest.mark.parametrize(("framework", "kind"), RUNNABLE)
def test_it_reaches_bronze(install, tmp_path, monkeypatch, framework, kind):
    name = install(framework, kind)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "programs"))  # engines after the first have the same
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # far more is compiled than computed
    out = tmp_path / "report"
    arguments = ["--device", name, "--quick", "--areas", "discovery,ops,sampling,executor", "--out", str(out)]
    assert main(["conformance", *arguments, "--time-limit", "800"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["level"] == "bronze"
    assert report["profiles"]["swa"] == "passed"
    assert all(op["provider"] and op["reason"] for op in report["ops"])
    assert {op["op"].startswith("step.") for op in report["ops"]} == {kind == "step"}


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_framework_it_says_what_to_install(install, capfd, monkeypatch, kind):
    name = install("jax", kind)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["devices"]) == 0
    expected = f"{name:12} broken  jax is not installed; to mend it: pip install jax  (anychip-{name} 0.1.0)"
    assert expected in capfd.readouterr().out


def test_it_is_not_the_device_that_auto_takes(install):
    from anychip.platforms.selection import choose

    install("numpy", "ops")
    assert choose("auto").info.name == "cpu"


def test_what_its_device_does_not_have_is_refused(install):
    name = install("numpy", "ops")
    with pytest.raises(Exception, match=f"{name} has device 0 alone and sets no threads; asked for 0 and 3"):
        LLM("demo", name, threads=3)


def test_a_step_of_another_architecture_is_refused(install, checkpoint):
    name = install("numpy", "step")
    with pytest.raises(Exception, match="it has no step for Gemma3ForCausalLM; it has LlamaForCausalLM, "):
        LLM(checkpoint("gemma3")[0], name, skip_tokenizer=True)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_step_kit_gives_the_oracle_s_tokens(install, checkpoint, family):
    import checkpoints

    name = install("numpy", "step")
    directory, model = checkpoint(family)
    prompts = checkpoints.prompts(6, (1, 16, 17))
    params = SamplingParams(temperature=0, max_tokens=6, detokenize=False)
    with LLM(directory, name, skip_tokenizer=True, max_prefill_chunk=7) as llm:
        got = [output.outputs[0].token_ids for output in llm.generate(prompts, params)]
    assert got == [checkpoints.greedy(model, prompt, 6) for prompt in prompts]


# -- names --------------------------------------------------------------------------------------------------------


def refusal(capfd, *arguments: str) -> str:
    assert main(["plugin", "new", *arguments]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("anychip: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "name", ["", "Acme", "9acme", "acme chip", "acme.chip", "../acme", "a--b", "acme-", "ä", "a/b"]
)
def test_names_that_cannot_be(capfd, tmp_path, name):
    assert "expected lower-case letters and digits" in refusal(capfd, name, "--out", str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["auto", "sdk"])
def test_names_that_are_reserved(name):
    with pytest.raises(ScaffoldError, match=f"the name '{name}' is reserved"):
        check_name(name, ())


def test_names_that_are_taken(capfd, tmp_path, monkeypatch):
    line = refusal(capfd, "cpu", "--out", str(tmp_path))
    assert re.search(r"anychip-cpu \S+ is installed; take another name, or pip uninstall anychip-cpu", line)
    with pytest.raises(ScaffoldError, match=r"a platform 'numpy' is installed; take another name$"):
        check_name("numpy", ("numpy",))
    (tmp_path / "anychip_late.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScaffoldError, match="a module anychip_late is there already"):
        check_name("late", ())


def test_nothing_is_overwritten(capfd, tmp_path):
    (tmp_path / "anychip-acme").mkdir()
    assert f"{tmp_path / 'anychip-acme'} exists; remove it, or give another --out" in refusal(
        capfd, "acme", "--out", str(tmp_path)
    )
    assert not list((tmp_path / "anychip-acme").iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(capfd, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in refusal(capfd, "acme", "--out", str(tmp_path / "file"))


def test_names_of_several_parts(tmp_path):
    done = write_plugin("big_chip-2", "numpy", "ops", tmp_path)
    assert done.root.name == "anychip-big-chip-2"
    assert "class BigChip2Platform(Platform)" in (done.root / "src/anychip_big_chip_2/platform.py").read_text()
