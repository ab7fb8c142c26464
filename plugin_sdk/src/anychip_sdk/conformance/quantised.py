"""The reference of products with quantised weights. Its error against the float64 oracle, which has the weights as they
were, is the budget that the suite publishes for a format (see `numerics.py`).

Plain means: weights are rounded to whole numbers of the format's bits, with one scale for each group of inputs, its
largest magnitude over the largest number, kept in bfloat16; inputs are rounded to 8 bits, with one scale a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anychip_sdk.conformance.numerics import rounded
from anychip_sdk.contract import QUANT_FORMATS
from anychip_sdk.kits.numpy import Weight

Array = NDArray[np.float32]
INPUT_BITS = 8


@dataclass(frozen=True)
class Quantised(Weight):
    """`grid`: the parts as their numbers and scales give them. An embedding keeps its table in `parts`."""

    grid: tuple[Array, ...] = ()


def quantised(w: Weight, name: str) -> Quantised:
    """w: linear or embedding, its parts [O, I]. name: of QUANT_FORMATS."""
    form = QUANT_FORMATS[name]
    grid = tuple(on_grid(part, form.bits, form.group, scale_in_16_bits=True) for part in w.parts)
    return Quantised(w.kind, w.parts, w.bias, grid)


def on_grid(x: Array, bits: int, group: int | None = None, *, scale_in_16_bits: bool = False) -> Array:
    """x: [N, I], each group of the last axis rounded to 2^bits - 1 numbers around zero."""
    most, inputs = 2 ** (bits - 1) - 1, x.shape[1]
    size = inputs if group is None else group
    padded = np.pad(x, ((0, 0), (0, -inputs % size))).reshape(len(x), -1, size)
    scale = np.abs(padded).max(axis=-1, keepdims=True) / most
    scale = rounded(scale, "bfloat16") if scale_in_16_bits else scale
    numbers = np.clip(np.round(padded / np.where(scale == 0, 1, scale)), -most, most)
    found: Array = (numbers * scale).reshape(len(x), -1)[:, :inputs].astype(x.dtype)
    return found
