"""KV pages in 8 bits: each vector is small numbers times a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from anychip_sdk.contract import KVDType

FORMATS: Mapping[KVDType, np.dtype] = {"int8": np.dtype(np.int8), "fp8": np.dtype(jnp.float8_e4m3fn)}


class ScaledPages(NamedTuple):
    """K or V of a group."""

    numbers: Array  # [layers, pages, K, page_size, D] of FORMATS
    scales: Array  # [layers, pages, K, page_size] float32, unless a device lays them out in its own way


Pages = Array | ScaledPages


def cells(pages: Pages) -> Array:
    """What has the shape of the pages: [layers, pages, K, page_size, D]."""
    return pages.numbers if isinstance(pages, ScaledPages) else pages


def scaled(x: Array, dtype: np.dtype) -> tuple[Array, Array]:
    """x: [..., D] -> its numbers in `dtype` [..., D], and their scales [...]. A vector that is not finite has a scale
    that is not."""
    wide, most = x.astype(jnp.float32), largest(dtype)
    scales = jnp.max(jnp.abs(wide), axis=-1) / most
    # The scale is rounded, so the largest number may come out beyond the format, and in e4m3 that would be NaN.
    numbers = jnp.clip(wide / jnp.where(scales == 0, 1, scales)[..., None], -most, most)
    return (jnp.round(numbers) if dtype == np.int8 else numbers).astype(dtype), scales


def largest(dtype: np.dtype) -> float:
    """The largest number of a format."""
    return 127.0 if dtype == np.int8 else float(jnp.finfo(dtype).max)


def store(pages: Pages, layer: Array | int, page: Array, offset: Array, new: Array) -> Pages:
    """page, offset: [T]; new: [T, K, D]."""
    place = (layer, page, slice(None), offset)
    if not isinstance(pages, ScaledPages):
        return pages.at[place].set(new.astype(pages.dtype), mode="promise_in_bounds")
    numbers, scales = scaled(new, pages.numbers.dtype)
    return ScaledPages(
        pages.numbers.at[place].set(numbers, mode="promise_in_bounds"),
        pages.scales.at[place].set(scales, mode="promise_in_bounds"),
    )


def load(pages: Pages, layer: Array | int, which: Array, dtype: np.dtype) -> Array:
    """which: [N, C] -> [N, C, K, page_size, D] in `dtype`."""
    if not isinstance(pages, ScaledPages):
        return pages.at[layer, which].get(mode="promise_in_bounds").astype(dtype)
    numbers, scales = (part.at[layer, which].get(mode="promise_in_bounds") for part in pages)
    return lax.convert_element_type(numbers.astype(jnp.float32) * scales[..., None], dtype)
