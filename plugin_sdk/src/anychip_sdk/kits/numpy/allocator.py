"""KV pages as numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anychip_sdk.contract import (
    SCALED_KV,
    Allocator,
    DType,
    KVDType,
    KVLayout,
    KVSpec,
    Memory,
    NotSupported,
    OutOfMemory,
)
from anychip_sdk.kits.host import host_memory
from anychip_sdk.kits.numpy.scaled import Pages, ScaledPages
from anychip_sdk.kits.paging import plan_pages

DTYPES: tuple[DType, ...] = ("float32", "float64")
KV_DTYPES: tuple[KVDType, ...] = (*DTYPES, *SCALED_KV)
PAGE_SIZES = tuple(2**n for n in range(9))
DEFAULT_PAGE_SIZE = 16

KV = list[tuple[Pages, Pages]]
"""Per group: K [layers, pages, page_size, K, D] and V [layers, pages, page_size, K, Dv]."""


class NumpyAllocator(Allocator):
    def __init__(self, dtypes: Sequence[KVDType] = KV_DTYPES, page_sizes: Sequence[int] = PAGE_SIZES) -> None:
        """As the device claims them."""
        self._dtypes = dtypes
        self._page_sizes = page_sizes

    def memory(self) -> Memory:
        return host_memory()

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        sizes = self._page_sizes
        default = DEFAULT_PAGE_SIZE if DEFAULT_PAGE_SIZE in sizes else sizes[0]
        size = default if page_size is None else page_size
        if size not in sizes:
            raise NotSupported(f"there are no pages of {size} tokens; use {', '.join(map(str, sizes))}")
        if spec.dtype not in self._dtypes:
            raise NotSupported(f"there is no KV in {spec.dtype}; use {', '.join(self._dtypes)}")
        return plan_pages(spec, budget=budget, page_size=size, max_len=max_len, slots=slots)

    def allocate(self, layout: KVLayout) -> KV:
        spec, size = layout.spec, layout.page_size
        try:
            return [
                (
                    _zeros((g.layers, pages, size, g.kv_heads, g.k_dim), spec.dtype),
                    _zeros((g.layers, pages, size, g.kv_heads, g.v_dim), spec.dtype),
                )
                for g, pages in zip(spec.groups, layout.pages, strict=True)
            ]
        except (MemoryError, ValueError) as error:  # ValueError: more than an array can ever have
            raise OutOfMemory(f"no memory for {layout.pages} KV pages: {error}; ask for fewer") from error

    def free(self, kv: KV) -> None:
        kv.clear()

    def copy_pages(self, kv: KV, group: int, source: np.ndarray, target: np.ndarray) -> KV:
        for cache in kv[group]:
            if isinstance(cache, ScaledPages):
                cache.copy(source, target)
            else:
                cache[:, target] = cache[:, source]
        return kv


def _zeros(shape: tuple[int, ...], dtype: KVDType) -> Pages:
    return ScaledPages.zeros(dtype, shape) if dtype in SCALED_KV else np.zeros(shape, dtype)
