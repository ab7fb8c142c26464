"""Where a decoding step of the cpu device spends its time: a recorded step's kernels, each run apart.

    python benchmarks/cpu_step.py MODEL [--requests N] [--prompt N] [--threads N] [--dtype NAME]

Prints the whole replay, then each kernel: calls a step, milliseconds (the best of several runs, the start of the
threads included), and for products the weights' bytes a second. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from ctypes import Structure
from time import perf_counter
from typing import Any

from anychip import LLM, SamplingParams
from anychip_cpu import native

TOKENS = 32
ROUNDS = 20


def best(call: Callable[[], Any]) -> float:
    """Seconds."""
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def label(name: str, work: Structure) -> str:
    return f"{name} {work.outputs} x {work.inputs}" if isinstance(work, native.LinearWork) else name


def read(name: str, work: Structure) -> int:
    """Bytes of a product's weights; of others 0: what they read is in the caches."""
    if not isinstance(work, native.LinearWork):
        return 0
    bits = work.bits or (32 if name.endswith("f32") else 16)
    return int(work.outputs * work.inputs * bits // 8)


def measure(kernels: native.Kernels, stretches: list[native.Stretch], threads: int) -> None:
    names = {getattr(kernels, name): name for name in native.KERNELS}
    whole = best(lambda: [stretch() for stretch in stretches])
    calls: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for stretch in stretches:
        # In the step's order, so that a kernel's weights have left the caches when it comes again.
        works = [(names[kernel], kernel, work) for kernel, work in stretch.kernels()]
        times = [float("inf")] * len(works)
        for _ in range(ROUNDS):
            for i, (_, kernel, work) in enumerate(works):
                start = perf_counter()
                native.run(kernel, work, threads)
                times[i] = min(times[i], perf_counter() - start)
        for (name, _, work), seconds in zip(works, times, strict=True):
            calls[label(name, work)].append((seconds, read(name, work)))
    print(f"whole replay {whole * 1e3:.2f} ms")
    for name, parts in sorted(calls.items(), key=lambda item: -sum(s for s, _ in item[1])):
        seconds, size = sum(s for s, _ in parts), sum(b for _, b in parts)
        speed = f"{size / seconds / 1e9:8.1f} GB/s" if size else ""
        print(f"{name:28} {len(parts):4} {seconds * 1e3:8.3f} ms{speed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    with LLM(options.model, "cpu", skip_tokenizer=True, dtype=options.dtype, threads=options.threads) as llm:
        prompts = [[1 + i, *range(2, options.prompt + 1)] for i in range(options.requests)]
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False))
        device: Any = llm._core._executor._device  # type: ignore[attr-defined]
        recording = device._recordings.last(lambda key: key.bucket.decode)
        measure(device.ops._kernels, recording.stretches(), options.threads)


if __name__ == "__main__":
    main()
