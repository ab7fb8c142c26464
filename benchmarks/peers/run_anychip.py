"""anychip on the cpu."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peers import machine, runner

OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantize": "int8", "kv_dtype": "float16"},
}


class Anychip:
    def __init__(self, model: str, format: str) -> None:
        from anychip import LLM, SamplingParams

        self._params = SamplingParams
        self._llm = LLM(model, "cpu", skip_tokenizer=True, threads=runner.threads(), **OPTIONS[format])

    def generate(self, work: runner.Work) -> list[list[int]]:
        params = [self._params(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in work]
        outputs = self._llm.generate([prompt for prompt, _ in work], params)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def forget(self) -> None:
        self._llm.reset_prefix_cache()


ROUNDS = 12
READ_S = 0.08


def decoding(engine: runner.Engine, asked: Mapping[str, runner.Work]) -> dict[str, Any]:
    """`decode`: of ROUNDS runs of `single`, seconds a token after the first one, and the read bandwidth in GB/s just
    before and after the run, the better of the two: a host's memory may be twice as fast a second later."""
    if "single" not in asked:
        return {}
    work = asked["single"]
    first = [(prompt, 1) for prompt, _ in work]
    steps = sum(count - 1 for _, count in work)
    read = machine.reader()
    found, before = [], read(READ_S)
    for _ in range(ROUNDS):
        prompt_s = runner.timed(engine, first)["seconds"]
        seconds = (runner.timed(engine, work)["seconds"] - prompt_s) / steps
        after = read(READ_S)
        found.append([round(seconds, 6), max(before, after)])
        before = after
    return {"decode": found}


if __name__ == "__main__":
    runner.main(("torch", "anychip"), Anychip, decoding)
