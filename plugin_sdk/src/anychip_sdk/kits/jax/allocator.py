"""KV pages as JAX arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from anychip_sdk.contract import Allocator, DType, KVLayout, KVSpec, Memory, NotSupported, OutOfMemory
from anychip_sdk.kits.host import host_memory
from anychip_sdk.kits.jax.errors import FAULTS, first_line
from anychip_sdk.kits.jax.weights import JAX_DTYPES
from anychip_sdk.kits.paging import plan_pages

KV = tuple[tuple[Array, Array], ...]
"""Per group: K [layers, pages, K, page_size, D] and V [layers, pages, K, page_size, Dv]. One head of one page is a
matrix whose last two axes fill a TPU's tiles. All layers are one array, since a scan over layers carries it: XLA
updates what a loop carries in place."""

PAGE_SIZES = tuple(2**n for n in range(9))
COPIES = 16
"""Pages copied by one program; fewer are padded with copies of scratch onto itself."""


class JaxAllocator(Allocator):
    extends = ("default_page_size",)
    default_page_size = 16

    def __init__(self, device: jax.Device, dtypes: Sequence[DType], page_sizes: Sequence[int] = PAGE_SIZES) -> None:
        """dtypes: what KV may be kept in; page_sizes: in tokens. Both as the device claims."""
        self._device, self._dtypes, self._page_sizes = device, dtypes, page_sizes

    def memory(self) -> Memory:
        stats = None if self._device.platform == "cpu" else self._device.memory_stats()
        if not stats:
            return host_memory()
        return Memory(stats["bytes_limit"] - stats["bytes_in_use"], stats["bytes_limit"])

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        sizes = self._page_sizes
        default = self.default_page_size if self.default_page_size in sizes else sizes[0]
        size = default if page_size is None else page_size
        if size not in sizes:
            raise NotSupported(f"there are no pages of {size} tokens; use {', '.join(map(str, sizes))}")
        if spec.dtype not in self._dtypes:
            raise NotSupported(f"no KV is kept in {spec.dtype}; use {', '.join(self._dtypes)}")
        return plan_pages(spec, budget=budget, page_size=size, max_len=max_len, slots=slots)

    def allocate(self, layout: KVLayout) -> KV:
        dtype, size = JAX_DTYPES[layout.spec.dtype], layout.page_size
        try:
            kv = tuple(
                (
                    jnp.zeros((g.layers, pages, g.kv_heads, size, g.k_dim), dtype, device=self._device),
                    jnp.zeros((g.layers, pages, g.kv_heads, size, g.v_dim), dtype, device=self._device),
                )
                for g, pages in zip(layout.spec.groups, layout.pages, strict=True)
            )
            return jax.block_until_ready(kv)
        except FAULTS as error:
            raise OutOfMemory(f"no memory for {layout.pages} KV pages: {first_line(error)}; ask for fewer") from error

    def free(self, kv: KV) -> None:
        for keys, values in kv:
            keys.delete()
            values.delete()

    def copy_pages(self, kv: KV, group: int, source: np.ndarray, target: np.ndarray) -> KV:
        caches = kv[group]
        for start in range(0, len(source), COPIES):
            pairs = np.zeros((2, COPIES), np.int32)
            for row, pages in zip(pairs, (source, target), strict=True):
                part = pages[start : start + COPIES]
                row[: len(part)] = part
            caches = _copy(caches, jax.device_put(pairs, self._device))
        return (*kv[:group], caches, *kv[group + 1 :])


@partial(jax.jit, donate_argnums=0)
def _copy(caches: tuple[Array, Array], pairs: Array) -> tuple[Array, Array]:
    """pairs: [2, COPIES] int32, pages to read and pages to write."""
    keys, values = (cache.at[:, pairs[1]].set(cache[:, pairs[0]]) for cache in caches)
    return keys, values
