"""anychip bench quality: what a format of the weights costs."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
from anychip.bench import quality
from anychip.cli import main
from anychip.engine.options import EngineOptions
from anychip.errors import RequestError
from anychip_cpu import native

needs_kernels = pytest.mark.skipif(not native.isas(), reason="anychip-cpu was installed without a C++ compiler")
TEXTS = [
    "Return a list of all the values of the given field, in the order in which they were added.\n" * 3,
    "class Queue:\n    def __init__(self, maxsize=0):\n        self.maxsize = maxsize\n",
]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\f".join(TEXTS), encoding="utf-8")
    return str(path)


def measured(capsys, *arguments):
    assert main(["bench", "quality", "--model", "demo", "--device", "cpu", *arguments]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["bench"] == "quality"
    assert [line.split()[0] for line in table[1:]] == [r["format"].split()[0] for r in result["results"]]
    return {r["format"]: r for r in result["results"]}


def refused(capsys, *arguments):
    assert main(["bench", *arguments]) == 1
    return capsys.readouterr().err.splitlines()[-1]


@needs_kernels
def test_every_format_of_the_device_stands_beside_float32(capsys, text):
    found = measured(capsys, "--text", text)
    kept = {name: found.pop(name) for name in ("KV bfloat16", "KV float16", "KV int8", "KV fp8")}
    assert list(found) == ["float32", "bfloat16", "float16", "int8", "int8-g32", "int8-g64", "int8-g128", "int4-g32",
                           "int4", "int4-g128"]  # fmt: skip
    first = found.pop("float32")
    assert (first["kl"], first["agreement"]) == (0.0, 1.0)
    for r in kept.values():
        assert (r["tokens"], r["weights"]) == (first["tokens"], first["weights"])
        assert r["kv"] < first["kv"]
        assert 0 < r["kl"] < 0.02
    assert kept["KV float16"]["kl"] < kept["KV int8"]["kl"] < kept["KV fp8"]["kl"]
    for name, r in found.items():
        assert r["kv"] <= first["kv"]
        assert r["tokens"] == first["tokens"]
        assert r["weights"] < first["weights"]  # float32 keeps the demo's 16 bits, and a head in 8 beside them
        assert 0 < r["kl"] < (0.2 if "int4" in name else 0.02)
        assert abs(math.log(r["perplexity"] / first["perplexity"])) < (0.2 if "int4" in name else 0.02)
    assert found["float16"]["kl"] < found["int8"]["kl"] < found["int4"]["kl"]


@needs_kernels
def test_the_format_that_is_asked_for(capsys, text):
    assert list(measured(capsys, "--text", text, "--quantize", "int8")) == ["float32", "int8"]
    both = ["--dtype", "bfloat16", "--quantize", "int8"]
    assert list(measured(capsys, "--text", text, *both)) == ["float32", "bfloat16 int8"]
    assert list(measured(capsys, "--text", text, "--quantize", "int8", "--kv-dtype", "fp8")) == [
        "float32",
        "int8 KV fp8",
    ]


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("family", ["llama3", "gemma3"])  # one group of pages; two, of which one has a window
def test_logits_are_transformers(checkpoint, monkeypatch, family, device):
    directory, model = checkpoint(family)
    monkeypatch.setattr(quality.Tokenizer, "load", lambda *_: None)
    ids = torch.arange(60) % 96
    with quality.Scorer(directory, EngineOptions(device=device, dtype="float32", max_num_seqs=1)) as scorer:
        got = torch.tensor(scorer.logits(ids.int().numpy()))
    with torch.no_grad():
        wanted = model(ids[None]).logits[0]
    assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-3)


def test_the_default_text_is_what_the_demo_never_saw():
    found = quality.texts(None)
    assert len(found) > 10
    assert all(found)


def test_texts_that_cannot_be_measured(capsys, tmp_path, monkeypatch):
    (tmp_path / "empty").write_text("\f \f\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, message in (("empty", "is empty"), ("bytes", "cannot read the text"), ("none", "cannot read the text")):
        with pytest.raises(RequestError, match=message):
            quality.texts(str(tmp_path / name))
    (tmp_path / "letter").write_text("a")
    monkeypatch.setattr(quality.Tokenizer, "load", lambda *_: SimpleNamespace(encode=lambda text: [5]))
    model = ["quality", "--model", "demo", "--device", "cpu"]
    assert "no two tokens in a row" in refused(capsys, *model, "--text", str(tmp_path / "letter"))


def test_what_it_needs(capsys):
    assert "bench quality measures a model; name it with --model" in refused(capsys, "quality")
    assert "reads no text; leave --text out" in refused(capsys, "host", "--text", "x")
    device = ["quality", "--model", "demo", "--device", "numpy"]
    assert "numpy cannot keep weights in int8" in refused(capsys, *device, "--quantize", "int8")
