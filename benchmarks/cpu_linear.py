"""How near the cpu's products come to the memory's speed and to the processor's.

    python benchmarks/cpu_linear.py [--threads 2] [--outputs 3072] [--inputs 1024] [--isa avx2]

For each format of the weights and each number of rows: bytes of weights read and operations done in a second, the best
of many runs. Weights are walked through copies larger than the caches, as the layers of a model are. The first line is
what a sum over a large array reads.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from itertools import cycle
from time import perf_counter
from typing import Any

import torch
from anychip_cpu import native
from anychip_cpu.platform import CpuPlatform
from anychip_sdk.contract import QUANT_FORMATS, WeightSpec

ROWS = (1, 2, 4, 8, 16, 32, 64, 256)
FORMATS = ("float32", "bfloat16", "float16", "int8", "int8-g64", "int4-g32", "int4-g64", "int4-g128")
READ = 150_000_000  # bytes of weights that are walked through
SECONDS = 0.4  # for each figure


def best(run: Callable[[], Any]) -> float:
    """Seconds of the fastest run."""
    fastest, end = float("inf"), perf_counter() + SECONDS
    while perf_counter() < end:
        start = perf_counter()
        run()
        fastest = min(fastest, perf_counter() - start)
    return fastest


def weights(device: Any, name: str, outputs: int, inputs: int) -> list[Any]:
    """Handles of the same weight, as many as READ takes."""
    tensor = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)).numpy()
    quantize = name if name in QUANT_FORMATS else None
    spec = WeightSpec((("w",),), "linear", quantize=quantize)

    def pack() -> Any:
        dtype = "float32" if quantize else name
        return device.pack(spec, lambda _, index=(): tensor[index], {"w": tensor.shape}, dtype)

    first = pack()
    return [first] + [pack() for _ in range(READ // size(first))]


def size(handle: Any) -> int:
    return sum(part.nbytes for part in vars(handle).values() if isinstance(part, torch.Tensor))


def measure(device: Any, name: str, outputs: int, inputs: int) -> None:
    handles = weights(device, name, outputs, inputs)
    walk, read = cycle(handles), size(handles[0])
    for rows in ROWS:
        x = torch.randn(rows, inputs, dtype=torch.float32 if name in QUANT_FORMATS else getattr(torch, name))

        def run(x: torch.Tensor = x) -> None:
            for _ in range(4):
                device.ops.linear(x, next(walk))

        seconds = best(run) / 4
        speed = f"{read / seconds / 1e9:8.1f} GB/s {2 * rows * outputs * inputs / seconds / 1e9:8.0f} GOP/s"
        print(f"{name:10} {rows:4} rows {seconds * 1e6:9.1f} us {speed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--outputs", type=int, default=3072)
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--isa", help=f"of {', '.join(native.isas())}")
    parser.add_argument("formats", nargs="*", default=FORMATS)
    options = parser.parse_args()
    if options.isa:
        os.environ[native.FORCED] = options.isa
    device = CpuPlatform().open(threads=options.threads)
    large = torch.ones(64 << 20)
    print(f"{torch.get_num_threads()} threads; a sum reads {large.nbytes / best(large.sum) / 1e9:.1f} GB/s")
    for name in options.formats:
        with torch.inference_mode():
            measure(device, name, options.outputs, options.inputs)


if __name__ == "__main__":
    main()
