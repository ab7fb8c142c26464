"""The last layer computes what is read of it: of a prompt's tokens, only the one that the next follows from."""

from __future__ import annotations

import pytest
from anychip import LLM, SamplingParams
from anychip_sdk.kits.numpy import NumpyOps

GREEDY = SamplingParams(temperature=0, max_tokens=2, detokenize=False)


@pytest.fixture
def widths(monkeypatch) -> list[int]:
    """Rows that each gated MLP of a step gets."""
    seen: list[int] = []
    plain = NumpyOps.gated_mlp

    def gated_mlp(self, x, *args):
        seen.append(len(x))
        return plain(self, x, *args)

    monkeypatch.setattr(NumpyOps, "gated_mlp", gated_mlp)
    return seen


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_mlp_of_the_last_layer_gets_the_logit_rows(checkpoint, widths, family):
    with LLM(checkpoint(family)[0], "numpy", skip_tokenizer=True) as llm:
        widths.clear()
        llm.generate([list(range(1, 12))], GREEDY)
    layers = len(widths) // 2
    assert widths == [11] * (layers - 1) + [1] + [1] * layers


def test_all_rows_are_there_for_the_prompt_s_logprobs(checkpoint, widths):
    params = SamplingParams(temperature=0, max_tokens=1, detokenize=False, prompt_logprobs=0)
    with LLM(checkpoint("llama")[0], "numpy", skip_tokenizer=True) as llm:
        widths.clear()
        llm.generate([list(range(1, 12))], params)
    assert set(widths) == {11}
