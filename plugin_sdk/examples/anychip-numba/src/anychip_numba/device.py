"""The device: products, KV write and attention are Numba's, all else is the numpy kit's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from anychip_sdk.contract import Batch, DeviceInfo, Layer
from anychip_sdk.kits.numpy import CAPABILITIES, NumpyAttention, NumpyDevice, NumpyOps, Weight

from anychip_numba import kernels
from anychip_numba.kernels import Array

CLAIMS = replace(CAPABILITIES, kv_dtypes=("float32", "float64"))
"""The kit keeps KV in 8 bits, too, which the kernels here cannot read."""


class NumbaAttention(NumpyAttention):
    def write(self, k: Array, v: Array, kv: Any, batch: Batch, layer: Layer) -> Any:
        group = layer.attention.group
        for cache, new in zip(kv[group], (k, v), strict=True):
            kernels.write(np.ascontiguousarray(new), cache[layer.kv_index], batch.slot_mapping[group])
        return kv

    def attend(self, q: Array, kv: Any, batch: Batch, layer: Layer) -> Array:
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])  # [pages, page_size, K, D]
        out = np.zeros((*q.shape[:2], values.shape[-1]), q.dtype)  # stays zero for padding
        kernels.attend(
            np.ascontiguousarray(q), keys, values, batch.page_table[spec.group], batch.query_start, batch.positions,
            int(batch.counts[1]), q.dtype.type(spec.scale), spec.window or 0, q.dtype.type(spec.softcap or 0), out,
        )  # fmt: skip
        return out.reshape(len(q), -1)


class NumbaOps(NumpyOps):
    adopted: ClassVar[Mapping[str, str]] = {
        "linear": "goes through linear_split",
        "logits": "goes through linear_split",
    }

    def __init__(self) -> None:
        self.attention = NumbaAttention()

    def linear_split(self, x: Array, w: Weight) -> tuple[Array, ...]:
        x = np.ascontiguousarray(x)
        products = tuple(np.empty((len(x), len(part)), x.dtype) for part in w.parts)
        for out, part in zip(products, w.parts, strict=True):
            kernels.matmul(x, part, out)
        return tuple(y + b for y, b in zip(products, w.bias, strict=True)) if w.bias else products


class NumbaDevice(NumpyDevice):
    def __init__(self, info: DeviceInfo) -> None:
        super().__init__(info, CLAIMS)
        self.ops = NumbaOps()
