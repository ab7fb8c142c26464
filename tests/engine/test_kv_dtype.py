"""`kv_dtype`: what the KV cache is kept in, what it saves, who refuses it, and a model that runs with it."""

from __future__ import annotations

import pytest
from anychip import LLM, SamplingParams
from anychip.cli import main
from anychip.errors import CapacityError, RequestError
from anychip_sdk.contract import SCALED_KV

GREEDY = SamplingParams(temperature=0, max_tokens=24)
PROMPT = "Return a list of"
SHARED = "Return a list of all the values of the given field, in the order in which they were added. " * 3


def plan(capsys, *arguments):
    assert main(["plan", "--model", "demo", *arguments]) == 0
    rows = (line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines())
    return {f"{a} {b}": rest for a, b, rest in rows}


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("kept", SCALED_KV)
def test_a_model_writes_with_kv_in_8_bits(device, kept):
    """With forks, which copy pages on write, and prefixes found again."""
    with LLM("demo", device=device, dtype="float32", kv_dtype=kept, max_num_seqs=4, page_size=16) as llm:
        several = SamplingParams(temperature=0, max_tokens=12, n=2)
        first, again = llm.generate([SHARED], several)[0], llm.generate([SHARED], several)[0]
    assert again.num_cached_tokens > 16
    texts = {completion.text for output in (first, again) for completion in output.outputs}
    assert len(texts) == 1
    assert texts.pop().strip()


def test_the_same_text_on_both_devices():
    texts = set()
    for device in ("cpu", "numpy"):
        with LLM("demo", device=device, dtype="float32", kv_dtype="int8", max_num_seqs=4) as llm:
            texts.add(llm.generate([PROMPT], GREEDY)[0].outputs[0].text)
    assert len(texts) == 1


def test_plan_counts_the_scales(capsys):
    """The demo model's K and V are 64 wide: as many numbers of one byte, and a scale, instead of 64 of four bytes."""
    wide, narrow = (
        plan(capsys, "--device", "cpu", "--dtype", "float32", "--kv-dtype", kept)["KV cache"]
        for kept in ("float32", "int8")
    )
    tokens = [int(text.rpartition("; ")[2].split()[0]) for text in (wide, narrow)]
    assert " in int8 of " in narrow
    assert tokens[1] / tokens[0] == (64 + 4) / (4 * 64)


def test_strict_refuses_a_cache_that_the_kernels_do_not_read(capsys):
    for command in ("generate", "plan"):
        given = [command, "--model", "demo", "--device", "cpu", "--strict", "--kv-dtype", "fp8"]
        assert main(given + ["Return"] * (command == "generate")) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("anychip: --strict: cpu would run this model's attention on reference code")
        assert "its kernels read no KV cache in float8_e4m3fn; change that, or leave --strict out" in line
    with LLM("demo", device="cpu", kv_dtype="int8", strict=True, warm_up=False) as llm:
        assert llm.default_params() is not None


def test_who_has_no_such_format(capsys):
    with pytest.raises(RequestError, match=r"kv_dtype is 'int4'; expected one of auto, .*, int8, fp8"):
        LLM("demo", device="numpy", kv_dtype="int4")
    with pytest.raises(CapacityError, match="numpy has no KV in bfloat16; it has float32, float64, int8, fp8"):
        LLM("demo", device="numpy", kv_dtype="bfloat16")
    assert main(["plan", "--model", "demo", "--device", "numpy", "--kv-dtype", "float16"]) == 1
    assert "numpy has no KV in float16" in capsys.readouterr().err
