"""How fast the cpu device decodes over a long context, for what KV can be kept in.

    python benchmarks/cpu_long_context.py MODEL [--context 4096] [--requests 8] [--kv-dtype int8]

`--requests` continue one prompt of `--context` tokens, whose pages they share; prefilling is not timed. A step reads
the weights once, and K and V of every request (`anychip plan` says how many bytes those are).
"""

from __future__ import annotations

import argparse
from time import perf_counter

from anychip import LLM, SamplingParams

TOKENS = 24  # decoded for the figure


def rate(llm: LLM, prompt: list[int], requests: int) -> float:
    """Seconds of one decode step. The prompt's pages are found in the cache."""

    def seconds(tokens: int) -> float:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        start = perf_counter()
        llm.generate([prompt] * requests, params)
        return perf_counter() - start

    seconds(1)
    short = min(seconds(1) for _ in range(2))
    return (min(seconds(1 + TOKENS) for _ in range(2)) - short) / TOKENS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--kv-dtype", default="float32")
    parser.add_argument("--quantize", default="int8")
    parser.add_argument("--threads", type=int)
    o = parser.parse_args()
    options = {"device": "cpu", "dtype": "float32", "quantize": o.quantize, "threads": o.threads}
    with LLM(o.model, kv_dtype=o.kv_dtype, max_num_seqs=o.requests, **options) as llm:
        step = rate(llm, [3 + i * 7919 % 16000 for i in range(o.context)], o.requests)
    print(f"KV in {o.kv_dtype}: {o.requests / step:.1f} tokens/s, {step * 1e3:.1f} ms a step")


if __name__ == "__main__":
    main()
