"""One engine, several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import checkpoints
import pytest
from anychip import LLM, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, detokenize=False)
PROMPTS = checkpoints.prompts(8, (5, 9, 17, 30))


@pytest.mark.parametrize("device", ["numpy", "cpu"])
def test_threads_take_turns(checkpoint, device):
    """Whose step it was that finished a request, or moved a stream, makes no difference."""
    with LLM(checkpoint("llama")[0], device, skip_tokenizer=True, dtype="float32", max_num_seqs=4) as llm:
        wanted = [o.outputs[0].token_ids for o in llm.generate(PROMPTS, GREEDY)]

        def whole(turn):
            return [o.outputs[0].token_ids for o in llm.generate(PROMPTS, replace(GREEDY, max_tokens=12 - turn % 2))]

        def streamed(turn):
            pieces = [list(llm.stream(prompt, GREEDY)) for prompt in PROMPTS[: 1 + turn]]
            return [[t for piece in each for t in piece.outputs[0].new_token_ids] for each in pieces]

        with ThreadPoolExecutor(6) as pool:
            calls = [(pool.submit(call, turn), turn, call) for turn in range(3) for call in (whole, streamed)]
            for done, turn, call in calls:
                if call is whole:
                    assert done.result(120) == [tokens[: 12 - turn % 2] for tokens in wanted]
                else:
                    assert done.result(120) == wanted[: 1 + turn]
        llm._core.scheduler.check_integrity()
        assert llm._core.kv.usage == 0
        assert not llm._running
        assert not llm._done
