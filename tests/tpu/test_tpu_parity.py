"""Greedy tokens equal Hugging Face Transformers', on one emulated chip and on two as one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest
from anychip_tpu.platform import EmulatedPlatform
from greedy import generate

pytestmark = pytest.mark.slow  # compiled or interpreted kernels

LENGTHS = (1, 31, 32, 33, 50)  # one token, edges of pages, longer than the window of 20
COUNT = 8


@pytest.fixture(scope="module")
def asked(checkpoint):
    """family -> (checkpoint, prompts, Transformers' tokens)."""

    def make(family):
        directory, model = checkpoint(family)
        prompts = checkpoints.prompts(len(LENGTHS), LENGTHS)
        return directory, prompts, [checkpoints.greedy(model, p, COUNT) for p in prompts]

    return make


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_prompts_in_chunks(family, asked):
    directory, prompts, wanted = asked(family)
    assert generate(EmulatedPlatform().open(), directory, prompts, COUNT, max_prefill_chunk=20) == wanted


def test_few_pages(asked):
    """Requests are preempted, pages are given to others and come back."""
    directory, prompts, wanted = asked("gemma3")
    options = {"kv_pages": 9, "page_size": 16, "max_num_batched_tokens": 32}
    assert generate(EmulatedPlatform().open(), directory, prompts, COUNT, **options) == wanted


@pytest.mark.parametrize("family", ["llama3", "mixtral"])
def test_two_chips_as_one(family, asked):
    directory, prompts, wanted = asked(family)
    command = [sys.executable, str(Path(__file__).with_name("greedy.py")), "1", str(directory)]
    given = json.dumps({"prompts": prompts, "count": COUNT})
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == wanted


def test_each_chip_takes_the_sinks_of_its_heads():
    code = (
        "from anychip_tpu.platform import EmulatedPlatform\n"
        "device = EmulatedPlatform().open(1)\n"
        "from anychip_sdk.contract import AttentionSpec\n"
        "from jax_cases import AttentionCase\n"
        "spec = AttentionSpec(head_dim=128, scale=128**-0.5)\n"
        "AttentionCase(device, [(7, 1), (40, 1), (0, 37)], spec, size=16, sinks=[-40, 0.5, 2, 9]).check()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
