"""anychip on the cpu."""

from __future__ import annotations

from typing import Any

from peers import runner

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


if __name__ == "__main__":
    runner.main(("torch", "anychip"), Anychip)
