"""KV pages in 8 bits: each vector is small numbers times a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from anychip_sdk.contract import KVDType

FORMATS: Mapping[KVDType, tuple[Any, float]] = {
    "int8": (np.int8, 127.0),
    "fp8": (ml_dtypes.float8_e4m3fn, float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)),
}
"""Format -> numpy's dtype of its numbers, and the largest of them."""


@dataclass(frozen=True)
class ScaledPages:
    """K or V of a group. `numbers`: [layers, pages, page_size, K, D], `scales`: the same without its last axis."""

    format: KVDType
    numbers: np.ndarray
    scales: np.ndarray

    @classmethod
    def zeros(cls, format: KVDType, shape: tuple[int, ...]) -> ScaledPages:
        return cls(format, np.zeros(shape, FORMATS[format][0]), np.zeros(shape[:-1], np.float32))

    def write(self, layer: int, page: np.ndarray, offset: np.ndarray, new: np.ndarray) -> None:
        """page, offset: [T]; new: [T, K, D]."""
        kind, most = FORMATS[self.format]
        scales = (np.abs(new).max(axis=-1, initial=0.0) / most).astype(np.float32)  # [T, K]
        numbers = np.clip(new / np.where(scales == 0, 1, scales)[..., None], -most, most)
        if self.format == "int8":
            numbers = np.round(numbers)
        with np.errstate(invalid="ignore"):  # NaN as a whole number is any; its scale is NaN too
            self.numbers[layer, page, offset] = numbers.astype(kind)
        self.scales[layer, page, offset] = scales

    def read(self, layer: int, pages: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """pages: [P] -> [P, page_size, K, D]."""
        numbers, scales = self.numbers[layer, pages], self.scales[layer, pages]
        y: np.ndarray = numbers.astype(dtype) * scales[..., None].astype(dtype)
        return y

    def copy(self, source: np.ndarray, target: np.ndarray) -> None:
        for part in (self.numbers, self.scales):
            part[:, target] = part[:, source]


Pages = np.ndarray | ScaledPages


def cells(pages: Pages) -> np.ndarray:
    """What has the shape of the pages: [layers, pages, page_size, K, D]."""
    return pages.numbers if isinstance(pages, ScaledPages) else pages


def read(pages: Pages, layer: int, which: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """which: [P] -> [P * page_size, K, D] in the order of `which`."""
    found = pages.read(layer, which, dtype) if isinstance(pages, ScaledPages) else pages[layer, which]
    return found.reshape(-1, *found.shape[2:])
