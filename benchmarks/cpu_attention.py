"""What decode attention of the cpu device reads in a second, for each thing that KV can be kept in.

    python benchmarks/cpu_attention.py [--threads 2] [--heads 9] [--kv-heads 3] [--head-dim 64]

One layer's attention of sequences that each decode a token over a long context; the layers' pages together are larger
than the caches. The first line is what a sum over a large array reads, which is the limit.
"""

from __future__ import annotations

import argparse
import os
from itertools import cycle
from typing import Any

import numpy as np
import torch
from anychip_cpu import native
from anychip_cpu.platform import CpuPlatform
from anychip_sdk.contract import (
    AttentionSpec,
    Batch,
    Bucket,
    KVDType,
    KVLayout,
    KVSpec,
    Layer,
    Paged,
    StepKey,
    view,
    words,
)
from cpu_linear import READ, best

CASES = ((1, 1024), (1, 8192), (8, 1024), (8, 4096))
"""(sequences, context of each)"""
FORMATS: tuple[KVDType, ...] = ("float32", "bfloat16", "float16", "int8", "fp8")
PAGE = 16


def decoding(device: Any, sequences: int, context: int) -> Batch:
    """Every sequence has one new token, at the end of `context`; its pages are its own, in a random order."""
    columns = -(-context // PAGE)
    key = StepKey(Bucket(sequences, sequences, columns, sequences, True))
    attention = device.ops.attention
    shapes = attention.plan_shapes(key.bucket)
    batch = view(torch.zeros(words(key, shapes), dtype=torch.int32), key, shapes)
    rows = torch.arange(sequences, dtype=torch.int32)
    batch.counts[:] = torch.tensor([sequences, sequences, sequences, sequences])
    batch.positions[:], batch.seq_lens[:] = context - 1, context
    batch.query_start[:-1], batch.query_start[-1] = rows, sequences
    order = 1 + np.random.default_rng(0).permutation(sequences * columns).astype(np.int32)
    batch.page_table[0] = torch.from_numpy(order.reshape(sequences, columns))
    begun: Batch = attention.begin(batch)
    return begun


def measure(device: Any, kept: KVDType, sequences: int, context: int, shape: tuple[int, int, int]) -> None:
    heads, kv_heads, dim = shape
    pages = 1 + sequences * -(-context // PAGE)
    group = Paged(layers=1, kv_heads=kv_heads, k_dim=dim, v_dim=dim)
    read = KVSpec((group,), kept).page_bytes(0, PAGE) * (pages - 1)
    layers = 1 + READ // read
    spec = KVSpec((Paged(layers=layers, kv_heads=kv_heads, k_dim=dim, v_dim=dim),), kept)
    kv = device.allocator.allocate(KVLayout(spec, PAGE, (pages,), sequences + 1))
    touch(kv)
    batch, attention = decoding(device, sequences, context), device.ops.attention
    q = torch.randn(sequences, heads, dim)
    walk = cycle(Layer(AttentionSpec(head_dim=dim, scale=dim**-0.5), i) for i in range(layers))
    seconds = best(lambda: attention.attend(q, kv, batch, next(walk)))
    print(f"{kept:10}{sequences:10}{context:9}{read / 2**20:10.2f}{seconds * 1e6:10.0f}{read / seconds / 1e9:8.1f}")
    device.allocator.free(kv)


def touch(kv: Any) -> None:
    """Every page is written, so that each has memory of its own."""
    for layers in kv[0]:
        for pages in layers:
            for part in pages if isinstance(pages, tuple) else (pages,):
                part.view(torch.uint8).fill_(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--kv-heads", type=int, default=3)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--isa", choices=native.isas())
    options = parser.parse_args()
    if options.isa:
        os.environ[native.FORCED] = options.isa
    device = CpuPlatform().open(threads=options.threads)
    large = torch.zeros(READ // 2)
    print(f"a sum over {large.nbytes / 1e6:.0f} MB reads {large.nbytes / best(large.sum) / 1e9:.1f} GB/s")
    print(f"{'KV':10}{'sequences':>10}{'context':>9}{'MiB':>10}{'us':>10}{'GB/s':>8}")
    shape = options.heads, options.kv_heads, options.head_dim
    with torch.inference_mode():
        for sequences, context in CASES:
            for kept in FORMATS:
                measure(device, kept, sequences, context, shape)


if __name__ == "__main__":
    main()
