"""The same handles, pages and batches for the torch kit and for the numpy kit, its oracle."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from anychip_sdk.contract import Batch, Capabilities, DeviceInfo, Layer, Reader, WeightSpec, view
from anychip_sdk.kits.numpy.platform import NumpyPlatform
from anychip_sdk.kits.torch import TorchDevice
from anychip_sdk.kits.torch.scaled import FORMATS, Pages, ScaledPages, formats, scaled
from numpy_batches import page_tables, ragged, sampling_batch

ORACLE = NumpyPlatform().open()
DTYPES = ("float32", "bfloat16", "float16")
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
"""One unit in the last place, relative."""
SINKS = WeightSpec((("s",),), "vector")
DECODES = [(7, 1), (0, 1), (3, 1), (30, 1), (16, 1), (15, 1), (1, 1), (22, 1), (4, 1), (12, 1)]
PREFILLS = [(0, 5), (4, 6), (8, 8), (0, 17), (19, 3)]
"""Sequences of a ragged batch: (tokens computed before, tokens new)."""


FILTERS = [
    {}, {"top_k": 1}, {"top_k": 5}, {"top_k": 60}, {"top_k": 10**6}, {"top_p": 0.01}, {"top_p": 0.5}, {"top_p": 0.95},
    {"min_p": 0.02}, {"min_p": 0.5}, {"min_p": 1.0}, {"top_k": 20, "top_p": 0.7}, {"top_p": 0.9, "min_p": 0.05},
    {"top_k": 7, "top_p": 0.8, "min_p": 0.1}, {"temperature": 0.0}, {"temperature": 0.3}, {"temperature": 3.0},
    {"temperature": 3.0, "top_p": 0.9}, {"temperature": 3.0, "min_p": 0.01}, {"temperature": 1e-30},
]  # fmt: skip
"""Sampling rows."""


def kit_device() -> TorchDevice:
    kept = (*DTYPES, *formats("cpu"))
    claims = Capabilities(weight_dtypes=DTYPES, kv_dtypes=kept, sliding_window=True, softcap=True, sinks=True, moe=True)
    return TorchDevice(DeviceInfo(name="torch", description="the kit alone", details={}), claims, "cpu")


def draw(*shape: int, dtype: str = "float32", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 1000 * sum(shape))
    return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))


def wide(x: Any) -> np.ndarray:
    """Any tensor as float64."""
    return x.double().numpy()


def reader(tensors: dict[str, torch.Tensor]) -> tuple[Reader, dict[str, tuple[int, ...]]]:
    arrays = {name: t.float().numpy() for name, t in tensors.items()}
    return (lambda name, index=(): arrays[name][index]), {name: a.shape for name, a in arrays.items()}


def both(device: TorchDevice, spec: WeightSpec, tensors: dict[str, torch.Tensor], dtype: str) -> tuple[Any, Any]:
    """The handle of the device in `dtype`, and the oracle's in float64, of the same values."""
    read, shapes = reader({name: t.to(getattr(torch, dtype)) for name, t in tensors.items()})
    return device.pack(spec, read, shapes, dtype), ORACLE.pack(spec, read, shapes, "float64")


def close(got: torch.Tensor, wanted: np.ndarray, dtype: str, terms: int) -> None:
    """Within the rounding of `terms` additions in float32 (kernels accumulate in it) and of a few values in `dtype`.
    The scale is the largest value, as a sum's rounding follows its largest terms."""
    assert got.dtype == getattr(torch, dtype)
    assert got.shape == wanted.shape
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    budget = scale * (4 * EPSILON[dtype] + terms * EPSILON["float32"])
    assert np.abs(wide(got) - wanted).max(initial=0.0) <= budget


def on_device(device: TorchDevice, host: Batch) -> Batch:
    """The host's batch as a step sees it: planned, uploaded, begun."""
    attention = device.ops.attention
    key = replace(host.key, static=attention.plan(host))
    fields = (vars(host)[name] for name in vars(host) if name not in ("key", "plan"))
    buffer = np.concatenate([array.ravel() for array in fields])
    return attention.begin(view(torch.from_numpy(buffer), key))


def _pages(layer: np.ndarray, kept: str) -> Pages:
    """[pages, size, K, D] as torch keeps them, [pages, K, size, D]."""
    values = torch.from_numpy(layer).transpose(1, 2).contiguous()
    return ScaledPages(*scaled(values, FORMATS[kept])) if kept in FORMATS else values.to(getattr(torch, kept))


def sampled(device, logits, rows, logprobs=None, filters=True):
    """-> the device's result and the oracle's, on equal batches and states."""
    host = sampling_batch(rows, logprobs, pad_lists=3)
    host.key = replace(host.key, sample=replace(host.key.sample, filters=filters))
    logits = np.array(logits, np.float32).reshape(len(rows), -1)
    mine = SimpleNamespace(last_token=torch.zeros(4, dtype=torch.int32))
    theirs = SimpleNamespace(last_token=np.zeros(4, np.int32))
    got, state = device.ops.sample(torch.from_numpy(logits), on_device(device, host), mine)
    assert state is mine
    with np.errstate(invalid="ignore"):
        wanted, _ = ORACLE.ops.sample(logits, host, theirs)
    assert got.tokens.dtype == torch.int32
    assert mine.last_token[1:].tolist() == theirs.last_token[1:].tolist()
    return got, wanted


def _values(pages: Pages) -> np.ndarray:
    """[pages, size, K, D], as they are read."""
    if isinstance(pages, ScaledPages):
        pages = pages.numbers.double() * pages.scales.double()[..., None]
    return pages.double().transpose(1, 2).numpy()


class AttentionCase:
    """steps: (computed, new) of each sequence, decodes first. The caches of both kits hold the same values: those that
    pages of `kept` give back."""

    def __init__(self, device, steps, spec, *, H=4, K=2, Dv=None, size=4, dtype="float32", kept=None, seed=0):
        self.device, self.dtype, self.layer, self.size = device, dtype, Layer(spec, 1), size
        D, Dv = spec.head_dim, Dv or spec.head_dim
        lengths = [computed + new for computed, new in steps]
        used = sum(-(-n // size) for n in lengths)
        tables = page_tables(lengths, size, 1 + np.random.default_rng(seed).permutation(used))
        self.host = ragged(steps, tables, size)
        self.host.counts[3] = sum(1 for _, n in steps if n == 1)
        self.q = draw(sum(n for _, n in steps), H, D, dtype=dtype, seed=seed)
        shape = (used + 2, size, K)
        self.oracle = [tuple(np.full((2, *shape, d), np.nan) for d in (D, Dv))]
        for i, (length, table) in enumerate(zip(lengths, tables, strict=True)):
            for cache, d in zip(self.oracle[0], (D, Dv), strict=True):
                values = wide(draw(length, K, d, dtype=dtype, seed=seed + i + d))
                cache[1, np.array(table)[np.arange(length) // size], np.arange(length) % size] = values
        for cache in self.oracle[0]:
            cache[:, 0] = 0
        self.kv = [tuple([_pages(layer, kept or dtype) for layer in cache] for cache in self.oracle[0])]
        self.oracle = [tuple(np.stack([_values(pages) for pages in layers]) for layers in self.kv[0])]

    def run(self):
        return self.device.ops.attention.attend(self.q, self.kv, on_device(self.device, self.host), self.layer)

    def check(self):
        return self._close(self.run(), ORACLE.ops.attention.attend(wide(self.q), self.oracle, self.host, self.layer))

    def run_with_sinks(self, sinks):
        """sinks: [H]"""
        mine, _ = both(self.device, SINKS, {"s": torch.tensor(sinks)}, "float32")
        batch = on_device(self.device, self.host)
        return self.device.ops.attention.attend_with_sinks(self.q, self.kv, batch, self.layer, mine)

    def check_sinks(self, sinks):
        """sinks: [H]"""
        _, theirs = both(self.device, SINKS, {"s": torch.tensor(sinks)}, "float32")
        wanted = ORACLE.ops.attention.attend_with_sinks(wide(self.q), self.oracle, self.host, self.layer, theirs)
        return self._close(self.run_with_sinks(sinks), wanted)

    def pad(self, tokens, seqs):
        """A batch of decodes becomes one of a decode bucket, with so much padding behind it."""
        tables = [row[row > 0].tolist() for row in self.host.page_table[0]]
        steps = [(int(n) - 1, 1) for n in self.host.seq_lens]
        self.host = ragged(steps, tables, self.size, pad_tokens=tokens, pad_seqs=seqs)
        self.host.counts[3] = len(steps)
        self.host.key = replace(self.host.key, bucket=replace(self.host.key.bucket, decode=True))
        self.q = torch.cat((self.q, torch.full_like(self.q[:1], torch.nan).expand(tokens, -1, -1)))

    def _close(self, got, wanted):
        # probabilities, and the scores before them, are rounded to the dtype
        close(got, wanted, self.dtype, terms=200)
        return got
