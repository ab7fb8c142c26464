"""Where a step of the cpu device spends its time: a recorded step's kernels, each run apart.

    python benchmarks/cpu_step.py MODEL [--requests N] [--prompt N] [--threads N] [--dtype NAME] [--quantize NAME]
                                        [--prefill]

Prints the whole replay, then each kernel: calls a step, milliseconds (the best of several runs, the start of the
threads included), and for products the weights' bytes and the operations a second. The step is the last one that
decodes, or with --prefill the last one that computes prompts. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from ctypes import POINTER, Structure, c_int32, cast
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


def product_of(work: Structure) -> native.LinearWork | None:
    whole = work.product if isinstance(work, native.LargestWork) else work
    return whole if isinstance(whole, native.LinearWork) else None


def label(name: str, work: Structure) -> str:
    product = product_of(work)
    return name if product is None else f"{name} {product.outputs} x {product.inputs}"


def moved(name: str, step: Structure) -> tuple[int, int]:
    """Bytes of a product's weights and its operations; of others 0: what they read is in the caches."""
    work = product_of(step)
    if work is None:
        return 0, 0
    rows = min(work.rows, cast(work.live, POINTER(c_int32))[0])
    bits = work.bits or (32 if name.endswith("f32") else 16)
    if isinstance(step, native.LargestWork) and rows <= native.FEW:
        bits = 6  # and those of the few outputs that are computed whole
    return work.outputs * work.inputs * bits // 8, 2 * rows * work.outputs * work.inputs


def measure(kernels: native.Kernels, stretches: list[native.Stretch], threads: int) -> None:
    names = {getattr(kernels, name): name for name in native.KERNELS}
    whole = best(lambda: [stretch() for stretch in stretches])
    calls: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
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
            calls[label(name, work)].append((seconds, *moved(name, work)))
    print(f"whole replay {whole * 1e3:.2f} ms")
    for name, parts in sorted(calls.items(), key=lambda item: -sum(part[0] for part in item[1])):
        seconds, size, operations = (sum(column) for column in zip(*parts, strict=True))
        speed = f"{size / seconds / 1e9:8.1f} GB/s {operations / seconds / 1e9:8.0f} GOP/s" if size else ""
        print(f"{name:28} {len(parts):4} {seconds * 1e3:8.3f} ms{speed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quantize")
    parser.add_argument("--prefill", action="store_true")
    options = parser.parse_args()
    chosen = {"dtype": options.dtype, "quantize": options.quantize, "threads": options.threads}
    with LLM(options.model, "cpu", skip_tokenizer=True, **chosen) as llm:
        prompts = [[1 + i, *range(2, options.prompt + 1)] for i in range(options.requests)]
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False))
        device: Any = llm._core._executor._device  # type: ignore[attr-defined]
        recording = device._recordings.last(lambda key: key.bucket.decode != options.prefill)
        measure(device.ops._kernels, recording.stretches(), options.threads)


if __name__ == "__main__":
    main()
