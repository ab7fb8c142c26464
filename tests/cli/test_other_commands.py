"""anychip plan, devices, bench, serve, and the command itself."""

from __future__ import annotations

import json
import re
import socket

import checkpoints
import pytest
from anychip import __version__
from anychip.bench import host, startup, workloads
from anychip.cli import COMMANDS, main
from anychip.models.registry import ARCHITECTURES


def said(capsys, *arguments: str, status: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of a command that ends with `status`."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


def refusal(capsys, *arguments: str) -> str:
    out, err = said(capsys, *arguments, status=1)
    assert out == ""
    assert err.startswith("anychip: ")
    assert err.count("\n") == 1
    return err.removeprefix("anychip: ").rstrip("\n")


def usage_error(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# -- the command --------------------------------------------------------------------------------------------------


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert said(capsys, status=2)[0] == out
    assert said(capsys, "--version")[0] == f"anychip {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert COMMANDS[command] in " ".join(capsys.readouterr().out.split())


def test_an_unknown_command_lists_the_known(capsys):
    line = usage_error(capsys, "frob")
    assert line.startswith("anychip: there is no command 'frob'; known: ")
    assert all(name in line for name in COMMANDS)


@pytest.mark.parametrize(
    ("command", "flag"),
    [("plan", "--policy=fcfs"), ("plan", "--no-prefix-caching"), ("plan", "--max-prefill-chunk=1"),
     ("generate", "--policy=fcfs"), ("generate", "--no-prefix-caching"), ("chat", "--policy=fcfs")],
)  # fmt: skip
def test_options_that_mean_nothing_to_a_command_are_not_taken(capsys, command, flag):
    line = usage_error(capsys, command, "--model", "demo", flag)
    assert line.startswith(f"anychip {command}: there is no option {flag.partition('=')[0]}")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("genrate x", "anychip: there is no command 'genrate'; did you mean generate?"),
        ("--vresion", "anychip: there is no option --vresion; did you mean --version?"),
        ("generate --modle demo x", "anychip generate: there is no option --modle; did you mean --model?"),
        ("plan --quantise=int8", "anychip plan: there is no option --quantise; did you mean --quantize?"),
        ("conformance repro --ot x", "anychip conformance: there is no option --ot; did you mean --out?"),
        ("generate", "anychip generate: the following arguments are required: --model; see anychip generate --help"),
        (
            "generate --model demo a b",
            "anychip generate: there is no place for b; a text with spaces needs quotes; see anychip generate --help",
        ),
        ("plan --model demo -x", "anychip plan: there is no option -x"),
        ("bench host --repeats two", "anychip bench: --repeats is 'two'; expected a whole number"),
        ("generate --model demo --top-p high x", "anychip generate: --top-p is 'high'; expected a number"),
        (
            "plan --model demo --kv-cache-memory lots",
            "anychip plan: --kv-cache-memory is 'lots'; expected a number of bytes, or a size such as 4GiB or 500MB",
        ),
    ],
)
def test_wrong_usage_is_one_line_with_what_was_meant(capsys, arguments, line):
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(line)


def test_a_prompt_may_look_like_an_option(capsys):
    line = refusal(capsys, "generate", "--model", "./nowhere", "--", "--modle")
    assert line.startswith("no such directory: './nowhere'")
    assert refusal(capsys, "generate", "--model", "./nowhere", "--a b").startswith("no such directory: './nowhere'")


# -- plan ---------------------------------------------------------------------------------------------------------


def test_plan_explains_the_budget(capsys):
    options = ("--device", "numpy", "--max-model-len", "512", "--max-num-seqs", "4", "--page-size", "8")
    out, _ = said(capsys, "plan", "--model", "demo", *options)
    rows = {line[:16].strip(): line[17:] for line in out.splitlines()}
    assert rows["model"] == "demo (LlamaForCausalLM, 4 layers)"
    assert rows["weights"] == "13.0 MiB in float32"
    assert rows["KV cache"].endswith("; 4096 bytes a token")
    assert rows["KV pages"] == f"{4 * 512 // 8 + 1} of 8 tokens"
    assert rows["longest context"] == "512 tokens (the model allows 1024)"
    assert rows["concurrency"] == "4 requests of that length, 4 at most"
    assert rows["verdict"] == "it fits"


def test_plan_says_what_would_make_it_fit(capsys):
    command = ("plan", "--model", "demo", "--device", "cpu", "--kv-cache-memory", "1000000", "--max-model-len", "1024")
    assert refusal(capsys, *command) == (
        "a context of 1024 tokens needs 4.0 MiB of KV cache, 0.9 MiB hold 224: ask for max_model_len 224 or less, or "
        "give the KV cache more (kv_cache_memory, memory_fraction)"
    )


def test_plan_takes_sizes_and_says_what_bounds_the_kv_cache(capsys):
    def kv_cache(*options: str) -> str:
        out, _ = said(capsys, "plan", "--model", "demo", "--device", "numpy", "--max-num-seqs", "2", *options)
        return next(line for line in out.splitlines() if line.startswith("KV cache"))

    assert kv_cache("--kv-cache-memory", "4MB").endswith("in float32 of the 3.8 MiB asked for; 4096 bytes a token")
    whole = r"KV cache +8\.1 MiB in float32 of [\d.]+ [GM]iB allowed, 20% of what weights and activations leave; 4096 "
    assert re.match(whole, kv_cache("--memory-fraction", "0.2"))


@pytest.mark.parametrize("command", [("plan",), ("generate", "x")])
def test_a_kv_cache_that_no_machine_holds_is_refused_though_the_model_could_not_use_it(capsys, command):
    line = refusal(capsys, *command, "--model", "demo", "--device", "numpy", "--kv-cache-memory", "4000TiB")
    assert line.startswith("a KV cache of 4096000.00 GiB was asked for, but beside weights and activations numpy has ")


def test_plan_reads_no_weights(capsys, tmp_path):
    """NaN in them is not seen, and a config that does not fit them is."""
    checkpoints.build("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1000:] = b"\xff" * 1000
    file.write_bytes(data)
    assert "it fits" in said(capsys, "plan", "--model", str(tmp_path), "--device", "numpy")[0]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Phantom"]}))
    line = refusal(capsys, "plan", "--model", str(tmp_path), "--device", "numpy")
    assert line.startswith("architecture 'Phantom' in config.json is unknown; known: ")
    assert all(name in line for name in ARCHITECTURES)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "qwen3_moe"])
@pytest.mark.parametrize("device", ["cpu", "numpy"])
def test_plan_needs_no_weights(capsys, tmp_path, family, device):
    """The same sizes follow from config.json alone; shards that are not all there count as none."""
    checkpoints.build(family, tmp_path, max_shard_size="20KB")
    command = ("plan", "--model", str(tmp_path), "--device", device, "--kv-cache-memory", "10000000")
    capsys.readouterr()
    model, *sizes = rows(said(capsys, *command)[0])
    for pattern in ("model-00002-*", "*.safetensors", "*.index.json"):
        for file in tmp_path.glob(pattern):
            file.unlink()
        alone = rows(said(capsys, *command)[0])
        assert alone == [model.removesuffix(")") + "; by its config.json alone, the weights are not here)", *sizes]


def rows(out: str) -> list[str]:
    """But for the device's, whose free memory changes."""
    return [line for line in out.splitlines() if not line.startswith("device")]


def test_plan_does_not_pass_over_weights_it_cannot_read(capsys, tmp_path):
    checkpoints.build("llama", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    capsys.readouterr()
    assert "has pickled weights only" in refusal(capsys, "plan", "--model", str(tmp_path), "--device", "numpy")
    (tmp_path / "config.json").unlink()
    assert "has no config.json" in refusal(capsys, "plan", "--model", str(tmp_path), "--device", "numpy")


# -- devices ------------------------------------------------------------------------------------------------------


def test_devices_lists_what_is_here(capsys):
    lines = said(capsys, "devices")[0].splitlines()
    assert [line.split()[:2] for line in lines] == [["cpu", "found"], ["numpy", "found"]]
    assert "(anychip-cpu " in lines[0]


def test_devices_verbose_shows_memory_claims_and_ops(capsys):
    out, _ = said(capsys, "devices", "-v")
    assert "    torch: " in out
    assert "    memory: " in out
    assert "    weights in float32, float64; KV in float32, float64" in out
    assert re.search(r"attention\.attend +float32 +\S.*NumpyAttention: the kit is the platform", out)


def test_devices_lists_one_that_is_named(capsys):
    lines = said(capsys, "devices", "numpy")[0].splitlines()
    assert [line.split()[:2] for line in lines] == [["numpy", "found"]]
    assert said(capsys, "devices", "numpy:0")[0].splitlines() == lines
    assert "there is no device 'npu'; installed: cpu, numpy" in refusal(capsys, "devices", "npu")
    assert "there is no device numpy:1; numpy has 1: numpy" in refusal(capsys, "devices", "numpy:1")


# -- bench --------------------------------------------------------------------------------------------------------


def test_bench_host_and_startup(capsys, monkeypatch):
    monkeypatch.setattr(host, "COUNTS", (1, 3))
    monkeypatch.setattr(startup, "REPEATS", 1)
    out, _ = said(capsys, "bench", "host", "startup")
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [f["bench"] for f in found] == ["startup", "host"]
    assert set(found[0]["ms"]) == {"anychip --help", "import anychip", "bare python"}
    assert set(found[1]["p50_ms"]) == {"1", "3"}
    assert all(ms > 0 for ms in [*found[0]["ms"].values(), *found[1]["p50_ms"].values()])


def test_bench_measures_a_model(capsys, monkeypatch):
    work = [([5, 6, 7, 8], 3), ([5, 6], 2)]
    monkeypatch.setattr(workloads, "make", lambda name, vocabulary: work)
    out, err = said(capsys, "bench", "batch", "single", "--model", "demo", "--device", "numpy", "--repeats", "1")
    assert "bench batch: 2/2 requests" in err
    result = json.loads(out.splitlines()[-1])
    assert [r["workload"] for r in result["results"]] == ["batch", "single"]
    assert all((r["output_tokens"], r["device"], r["dtype"]) == (5, "numpy", "float32") for r in result["results"])
    loaded, header = out.splitlines()[:2]
    assert re.fullmatch(r"demo on numpy in float32; loaded in [\d.]+ s", loaded)
    assert header.split()[0] == "workload"


@pytest.mark.parametrize(
    ("arguments", "said_first", "dtype", "quantize"),
    [
        (("--quantize", "int8"), "demo on cpu in float32, weights in int8; loaded in ", "float32", "int8"),
        (("--dtype", "bfloat16"), "demo on cpu in bfloat16; loaded in ", "bfloat16", None),
    ],
)
def test_bench_says_what_format_it_measured(capsys, monkeypatch, arguments, said_first, dtype, quantize):
    monkeypatch.setattr(workloads, "make", lambda name, vocabulary: [([5, 6, 7, 8], 3)])
    out, _ = said(capsys, "bench", "single", "--model", "demo", "--device", "cpu", "--repeats", "1", *arguments)
    assert out.startswith(said_first)
    (result,) = json.loads(out.splitlines()[-1])["results"]
    assert (result["output_tokens"], result["dtype"], result["quantize"]) == (3, dtype, quantize)


def test_the_workloads_are_the_same_for_every_engine():
    sizes = {name: [(len(prompt), count) for prompt, count in workloads.make(name)] for name in workloads.NAMES}
    assert sizes["single"] == [(128, 64)]
    assert len(sizes["batch"]) == 32
    assert all(16 <= n <= 256 and 16 <= count <= 96 for n, count in sizes["batch"])
    assert len(sizes["prefix"]) == 24
    prompts = [prompt for prompt, _ in workloads.make("prefix")]
    assert all(prompt[:512] == prompts[0][:512] for prompt in prompts)
    assert workloads.make("batch") == workloads.make("batch")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("frob",), "there is no workload 'frob'; expected single, batch, prefix, host, startup, quality"),
        ((), "bench single measures a model; name it with --model (demo comes with anychip)"),
        (("host", "--model", "demo"), "bench host measures no model; leave --model out"),
        (("host", "--device", "cpu"), "bench host runs no model; leave --device out"),
        (("startup", "--no-warm-up"), "bench startup runs no model; leave --no-warm-up out"),
        (("single", "--model", "demo", "--repeats", "0"), "--repeats is 0; expected a whole number >= 1"),
    ],
)
def test_bench_refuses_in_one_line(capsys, arguments, line):
    assert refusal(capsys, "bench", *arguments) == line


# -- serve --------------------------------------------------------------------------------------------------------


def test_serve_says_that_its_port_is_in_use(capsys):
    """Before anything is loaded: the model is never looked for."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = refusal(capsys, "serve", "--model", "./nowhere", "--port", port)
    assert line == f"port {port} on 127.0.0.1 is in use; choose another with --port"


def test_serve_refuses_bad_models_and_options(capsys):
    assert refusal(capsys, "serve", "--model", "./nowhere", "--port", "0").startswith("no such directory: './nowhere'")
    assert refusal(capsys, "serve", "--model", "demo", "--port", "70000").startswith("port 70000 does not exist")
    assert "--port is 'x'; expected a whole number" in usage_error(capsys, "serve", "--model", "demo", "--port", "x")
    command = ("serve", "--model", "demo", "--device", "numpy", "--port", "0")
    assert refusal(capsys, *command, "--policy", "lifo") == "policy is 'lifo'; expected fcfs or priority"


def test_serve_is_not_open_to_all_because_a_key_is_empty(capsys, monkeypatch):
    line = "the API key is empty; give one with --api-key or ANYCHIP_API_KEY, or neither to let everyone in"
    assert refusal(capsys, "serve", "--model", "./nowhere", "--port", "0", "--api-key", "") == line
    monkeypatch.setenv("ANYCHIP_API_KEY", "")
    assert refusal(capsys, "serve", "--model", "./nowhere", "--port", "0") == line
    named = refusal(capsys, "serve", "--model", "./nowhere", "--port", "0", "--api-key", "k", "--served-model-name", "")
    assert named == "--served-model-name is empty; give a name, or leave it out"
