"""What the attention kernels reach on a card: bandwidth of decode over that of a copy, and arithmetic of prefill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from anychip_sdk.contract import AttentionSpec, Batch, Bucket, KVDType, Layer, StepKey, view, words
from anychip_sdk.kits.torch import TorchDevice
from anychip_sdk.kits.torch.scaled import FORMATS, Pages, ScaledPages, scaled
from anychip_sdk.kits.torch.weights import Weight

Say = Callable[[str, float], None]
"""Takes a figure as soon as it is there."""
PAGE = 16
HEADS, KV_HEADS, WIDTH = 32, 8, 128
DTYPE = torch.bfloat16


def seconds(call: Callable[[], Any], device: torch.device, times: int = 20) -> float:
    """Of one call: the mean of many, after three that may compile."""
    for _ in range(3):
        call()
    if device.type == "cpu":
        start = perf_counter()
        for _ in range(times):
            call()
        return (perf_counter() - start) / times
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(times):
        call()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1000 / times


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Bytes read and written a second by a copy of `size` bytes."""
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


def batch_of(device: TorchDevice, lengths: list[int], new: int) -> Batch:
    """The last `new` tokens of each sequence of these lengths; a decoding step where that is one. Pages in a random
    order, just as many as the sequences need."""
    B, T = len(lengths), new * len(lengths)
    columns = [-(-n // PAGE) for n in lengths]
    decode = new == 1
    key = StepKey(Bucket(T, B, max(columns), B, decode))
    buffer = np.zeros(words(key), np.int32)
    host = view(buffer, key)
    host.counts[:] = (T, B, B, B if decode else 0)
    host.query_start[:] = np.arange(B + 1) * new
    host.seq_lens[:] = lengths
    host.token_seq[:] = np.repeat(np.arange(B), new)
    host.positions[:] = np.concatenate([np.arange(n - new, n) for n in lengths])
    pages = 1 + np.random.default_rng(0).permutation(sum(columns))
    for row, taken in enumerate(np.split(pages, np.cumsum(columns)[:-1])):
        host.page_table[0, row, : len(taken)] = taken
    attention = device.ops.attention
    key = replace(key, static=attention.plan(host))
    target = device.state(1).last_token.device
    return attention.begin(view(torch.from_numpy(buffer).to(target), key))


def pages_of(count: int, kept: KVDType | None, place: torch.device) -> Pages:
    """Random ones, kept in DTYPE or in a format of 8 bits."""
    values = torch.randn(count, KV_HEADS, PAGE, WIDTH, device=place, dtype=DTYPE)
    return values if kept is None else ScaledPages(*scaled(values, FORMATS[kept]))


def attend(
    device: TorchDevice,
    lengths: list[int],
    new: int,
    *,
    sinks: bool = False,
    kept: KVDType | None = None,
    **kind: Any,
) -> tuple[Callable[[], Any], int]:
    """-> a call of the kernel on random values, and the bytes of K and V it reads. kept: of the formats of 8 bits;
    kind: of `AttentionSpec`."""
    batch = batch_of(device, lengths, new)
    place = device.state(1).last_token.device
    count = 1 + int(batch.page_table.max())
    kv = [tuple([pages_of(count, kept, place)] for _ in "kv")]
    q = torch.randn(new * len(lengths), HEADS, WIDTH, device=place, dtype=DTYPE)
    layer = Layer(AttentionSpec(head_dim=WIDTH, scale=WIDTH**-0.5, **kind), 0)
    size = sum(lengths) * KV_HEADS * 2 * (WIDTH * DTYPE.itemsize if kept is None else WIDTH + 4)  # 4: of the scale
    if sinks:
        handle = Weight(torch.zeros(HEADS, device=place))
        return lambda: device.ops.attention.attend_with_sinks(q, kv, batch, layer, handle), size
    return lambda: device.ops.attention.attend(q, kv, batch, layer), size


@torch.inference_mode()
def run(device: TorchDevice, small: bool, say: Say) -> None:
    place = device.state(1).last_token.device
    copy = copy_bandwidth(place, (16 if small else 1024) * 2**20)
    say("copy, GB/s", copy / 1e9)
    for seqs, length in ((4, 128),) if small else ((64, 4096), (256, 1024), (8, 32768), (1, 131072)):
        call, size = attend(device, [length] * seqs, 1)
        rate = size / seconds(call, place)
        say(f"decode {seqs} x {length}, GB/s", rate / 1e9)
        say(f"decode {seqs} x {length}, of the copy", rate / copy)
    for kept in FORMATS:
        seqs, length = (4, 128) if small else (64, 4096)
        call, size = attend(device, [length] * seqs, 1, kept=kept)
        say(f"decode {seqs} x {length} in {kept}, of the copy", size / seconds(call, place) / copy)
    for length in (128,) if small else (2048, 8192):
        call, _ = attend(device, [length], length)
        work = 4 * HEADS * WIDTH * length * (length + 1) / 2
        say(f"prefill {length}, TFLOP/s", work / seconds(call, place) / 1e12)


@torch.inference_mode()
def touch(device: TorchDevice, say: Say) -> None:
    """Lengths around the edges of pages and chunks, for a tool that watches every access."""
    edges = [1, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1030]
    kinds: list[dict[str, Any]] = [{}, {"window": 20}, {"softcap": 30.0}, {"sinks": True}]
    kinds += [{"kept": kept} for kept in FORMATS]
    for kind in kinds:
        for new in (1, 5):
            call, _ = attend(device, [max(new, n) for n in edges], new, **kind)
            assert bool(call().isfinite().all())
    say("calls of the attention kernels", 2 * len(kinds))
