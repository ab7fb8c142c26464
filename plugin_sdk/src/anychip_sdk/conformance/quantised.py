"""The reference of products with quantised weights, and of KV in 8 bits. Its error against the float64 oracle, which
has both as they were, is the budget that the suite publishes for a format (see `numerics.py`).

Plain means: weights are rounded to whole numbers of the format's bits, with one scale for each group of inputs, its
largest magnitude over the largest number, kept in bfloat16; inputs are rounded to 8 bits, with one scale a row. K and V
are rounded to 8 bits with one scale a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from anychip_sdk.conformance.numerics import rounded
from anychip_sdk.contract import QUANT_FORMATS, SCALED_KV, KVDType
from anychip_sdk.kits.numpy import Weight

Array = NDArray[np.float32]
INPUT_BITS = 8
_LARGEST = 448.0
"""Of float8_e4m3fn."""


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


def kept(x: NDArray[Any], dtype: KVDType) -> NDArray[Any]:
    """K or V, [..., D], as a cache of `dtype` gives it back, in x's own dtype. fp8 is OCP's e4m3."""
    if dtype not in SCALED_KV:
        return rounded(x, dtype)
    if dtype == "int8":
        return on_grid(x.reshape(-1, x.shape[-1]), 8).reshape(x.shape)
    scale = np.abs(x).max(axis=-1, keepdims=True) / _LARGEST
    numbers = (x / np.where(scale == 0, 1, scale)).astype(ml_dtypes.float8_e4m3fn)
    y: NDArray[Any] = numbers.astype(x.dtype) * scale
    return y


def rounding(x: NDArray[Any], dtype: KVDType) -> NDArray[Any]:
    """How far a cache of `dtype`, of SCALED_KV, may move elements of vectors [..., D] to the nearest number. For fp8
    either e4m3 counts: three bits of mantissa, and small numbers no further apart than OCP has them."""
    most = np.abs(x).max(axis=-1, keepdims=True)
    y: NDArray[Any] = most / 254 if dtype == "int8" else np.maximum(np.abs(x) / 16, most / _LARGEST * 2.0**-10)
    return np.broadcast_to(y, x.shape)
