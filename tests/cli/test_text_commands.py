"""anychip generate and anychip chat, as they are typed."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from anychip.cli import main
from anychip.engine.llm import LLM

DEMO = ("--model", "demo", "--device", "numpy")
GREEDY = ("--temperature", "0", "--max-tokens", "6")


def said(capsys, *arguments: str, status: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of a command that ends with `status`."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err


def refusal(capsys, *arguments: str) -> str:
    """The one line of a command that fails."""
    out, err = said(capsys, *arguments, status=1)
    assert out == ""
    *progress, last = err.splitlines()
    assert all(line.startswith(("loading weights: ", "device: ")) for line in progress)
    assert last.startswith("anychip: ")
    return last.removeprefix("anychip: ")


def type_in(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# -- generate -----------------------------------------------------------------------------------------------------


def test_generate_streams_text_after_the_prompt(capsys):
    out, err = said(capsys, "generate", *DEMO, *GREEDY, "--stats", "Return a list")
    assert out.startswith("Return a list")
    assert len(out.strip()) > len("Return a list")
    lines = err.splitlines()
    assert lines[0].startswith("loading weights: ")
    assert "device: numpy (asked for)" in lines
    assert lines[-1].startswith("6 tokens, first after ")


@pytest.mark.parametrize("prompt", [(), ("-",)])
def test_generate_reads_its_prompt(capsys, monkeypatch, prompt):
    wanted, _ = said(capsys, "generate", *DEMO, *GREEDY, "def open")
    type_in(monkeypatch, "def open\n")
    assert said(capsys, "generate", *DEMO, *GREEDY, *prompt)[0] == wanted


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_input_that_is_no_text_is_refused(capsys, monkeypatch, command):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 au lait\n"), "utf-8"))
    assert main([command, *DEMO]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "anychip: standard input is no valid utf-8 at byte 3; mend it"


def test_what_a_terminal_cannot_show_is_spelt_out(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    assert main(["generate", *DEMO, *GREEDY, "caf\u00e9"]) == 0
    assert written.getvalue().startswith(rb"caf\xe9")


@pytest.mark.parametrize(("prompt", "piped"), [((), ""), (("-",), "\n"), (("",), "never read")])
def test_an_empty_prompt_is_refused_before_the_model_is_looked_for(capsys, monkeypatch, prompt, piped):
    type_in(monkeypatch, piped)
    line = refusal(capsys, "generate", "--model", "./nowhere", *prompt)
    assert line == "the prompt is empty; give a text, or pipe one in"


def test_sampling_options_reach_the_model(capsys):
    command = ("generate", *DEMO, "--max-tokens", "12", "--temperature", "1", "--seed", "3", "--top-k", "50")
    first, _ = said(capsys, *command, "--ignore-eos", "Return")
    assert said(capsys, *command, "--ignore-eos", "Return")[0] == first
    text = first.removeprefix("Return")
    cut, _ = said(capsys, *command, "--ignore-eos", "--stop", text[3:6], "Return")
    assert cut == f"Return{text[: text.index(text[3:6])]}\n"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "--device gpu",
            "there is no device 'gpu'; installed: cpu, numpy: choose one of these, or install the platform",
        ),
        ("--device numpy:1", "there is no device numpy:1; numpy has 1: numpy"),
        ("--dtype int3", "dtype is 'int3'; expected one of auto, float32, bfloat16, float16, float64"),
        ("--dtype bfloat16", "numpy has no weights in bfloat16; it has float32, float64: choose one of these, or auto"),
        ("--page-size 17", "numpy cannot keep this KV cache: there are no pages of 17 tokens; use 1, 2, 4, 8, 16"),
        ("--max-model-len 9999", "max_model_len is 9999, but demo was made for 1024 tokens; ask for at most 1024"),
        ("--max-num-seqs 0", "max_num_seqs is 0; expected a whole number >= 1"),
        ("--max-num-seqs 9999999", "demo needs 13.0 MiB for weights and "),
        ("--kv-cache-memory 1", "the KV cache does not fit into 1 bytes: "),
        ("--kv-cache-memory 1000000 --max-model-len 1024", "a context of 1024 tokens needs 4.0 MiB of KV cache"),
        ("--memory-fraction nan", "memory_fraction is nan; expected a number greater than 0 and at most 1"),
        ("--threads 2", "numpy cannot be opened: numpy cannot be set to 2 threads at run time; set OMP_NUM_THREADS"),
        ("--revision main", "revision 'main' was given, but 'demo' is no hub id; leave the revision out"),
        ("--max-tokens 0", "max_tokens is 0; expected a whole number from 1 to 2147483647"),
        ("--temperature nan", "temperature is nan; expected a number from 0 to 100"),
        ("--top-k -5", "top_k is -5; expected a whole number from -1 to 2147483647"),
        ("--seed -1", "seed is -1; expected a whole number from 0 to "),
        ("--min-tokens 300", "min_tokens is 300; expected at most max_tokens, which is 256"),
    ],
)
def test_bad_options_are_one_line(capsys, options, line):
    assert refusal(capsys, "generate", *DEMO, *options.split(), "Return").startswith(line)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--top-p 2", "top_p is 2.0; expected"),
        ("--min-tokens 300", "min_tokens is 300; expected at most max_tokens, which is 256"),
        (f"--stop {'x' * 1025}", "stop is 'xxx"),
        ("--stop=" + " --stop=x" * 16, "stop is ['', 'x', 'x'"),
    ],
)
def test_a_bad_sampling_option_is_told_before_the_model_is_looked_for(capsys, options, line):
    assert refusal(capsys, "generate", "--model", "./nowhere", *options.split(), "x").startswith(line)


def test_a_kv_cache_larger_than_the_memory(capsys):
    options = ("--kv-cache-memory", "99999999999999999", "--max-num-seqs", "60000")
    line = refusal(capsys, "generate", *DEMO, *options, "Return")
    assert line.startswith("a KV cache of ")
    assert "ask for less (kv_cache_memory)" in line


def test_a_prompt_longer_than_the_context_prints_nothing(capsys):
    line = refusal(capsys, "generate", *DEMO, "x" * 9000)
    assert line.startswith("the prompt has 9001 tokens; this engine's context of 1024 must hold it")


def test_bad_models_are_one_line(capsys, tmp_path):
    assert refusal(capsys, "generate", "--model", str(tmp_path), "x").startswith(f"{tmp_path} has no config.json")
    assert refusal(capsys, "generate", "--model", "./no/such", "x").startswith("no such directory: './no/such'")


@pytest.mark.parametrize("arguments", [(), ("--model", "demo", "--top-k", "many"), ("--model", "demo", "a", "b")])
def test_wrong_usage_ends_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(("generate", *arguments))
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("anychip generate: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_one_line():
    command = [sys.executable, "-m", "anychip", "generate", *DEMO, *GREEDY, "Return"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "anychip: No space left on device"


def test_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-m", "anychip", "generate", *DEMO, "--max-tokens", "300", "--ignore-eos", "Return"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(3) == "Ret"
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert "Error" not in process.stderr.read()


# -- chat ---------------------------------------------------------------------------------------------------------


def test_chat_answers_each_line_and_remembers(capsys, monkeypatch):
    type_in(monkeypatch, "What is a list?\nAnd a tuple?\n\nnever read\n")
    out, err = said(capsys, "chat", *DEMO, *GREEDY, "--system", "Be brief.")
    assert out.count("\n") >= 2
    assert "Type a message; an empty line or Ctrl-D ends the conversation, Ctrl-C an answer." in err
    type_in(monkeypatch, "And a tuple?\n")
    alone, _ = said(capsys, "chat", *DEMO, *GREEDY, "--system", "Be brief.")
    assert not out.endswith(alone)  # the second answer knew the first message


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(capsys, monkeypatch):
    chat, asked, before = LLM.chat, [], signal.getsignal(signal.SIGINT)

    def pressed_at_the_third_piece(llm, messages, params):
        asked.append([m["content"] for m in messages])
        for count, piece in enumerate(chat(llm, messages, params)):
            if count == 2 and len(asked) == 1:
                signal.raise_signal(signal.SIGINT)
            yield piece

    monkeypatch.setattr(LLM, "chat", pressed_at_the_third_piece)
    type_in(monkeypatch, "What is a list?\nAnd a tuple?\n")
    out, err = said(capsys, "chat", *DEMO, "--temperature", "0", "--max-tokens", "40")
    assert err.count("(stopped)") == 1
    first, second = asked
    assert first == ["What is a list?"]
    assert len(second) == 3
    assert out.startswith(second[1])  # as much of the answer as was printed
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_the_conversation(capsys, monkeypatch):
    def never(llm, messages, params):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield  # not reached

    monkeypatch.setattr(LLM, "chat", never)
    type_in(monkeypatch, "What is a list?\n")
    _, err = said(capsys, "chat", *DEMO, *GREEDY, status=130)
    assert err.endswith("anychip: interrupted\n")


def test_chat_goes_on_after_a_message_that_does_not_fit(capsys, monkeypatch):
    type_in(monkeypatch, f"{'x' * 5000}\nWhat is a list?\n")
    out, err = said(capsys, "chat", *DEMO, *GREEDY)
    assert err.splitlines()[-1].startswith("anychip: the prompt has ")
    assert out.strip()


def test_chat_goes_on_after_a_message_that_is_no_text(capsys, monkeypatch):
    type_in(monkeypatch, "What is a list?\nh\ud800\nAnd a tuple?\n")
    out, err = said(capsys, "chat", *DEMO, *GREEDY)
    assert "no valid Unicode" in err.splitlines()[-1]
    assert out.count("\n") >= 2


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_process_may_have_no_standard_input_nor_output(capsys, monkeypatch, command):
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(sys, name, None)
    status = main([command, *DEMO, *GREEDY])
    assert (status, "the prompt is empty" in capsys.readouterr().err) == (
        (1, True) if command == "generate" else (0, False)
    )


def test_a_home_of_nobody_is_no_directory(capsys):
    assert refusal(capsys, "generate", "--model", "~nobody-of-this-name/x", "Return").startswith("no such directory: ")


def test_chat_drops_the_oldest_turns_when_the_context_is_full(capsys, monkeypatch):
    type_in(monkeypatch, "What is a list?\nAnd a tuple?\nAnd a map?\n\n")
    out, err = said(capsys, "chat", *DEMO, *GREEDY, "--max-model-len", "48")
    assert "(the context is full: the oldest turn was dropped)" in err
    assert "anychip:" not in err
    assert len(out.splitlines()) >= 3


def test_chat_without_a_template_says_so_before_a_word_is_typed(capsys, monkeypatch, tmp_path):
    with resources.as_file(resources.files("anychip") / "demo") as demo:
        model = shutil.copytree(demo, tmp_path / "model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    type_in(monkeypatch, "never read\n")
    # Nothing was loaded.
    line = "anychip: model has no chat template; give a plain prompt instead (/v1/completions, generate)\n"
    assert said(capsys, "chat", "--model", str(model), "--device", "numpy", status=1) == (
        "",
        line,
    )  # nothing was loaded
    assert sys.stdin.read() == "never read\n"
