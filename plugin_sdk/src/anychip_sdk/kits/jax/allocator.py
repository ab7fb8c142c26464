"""KV pages as JAX arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from anychip_sdk.contract import Allocator, KVDType, KVLayout, KVSpec, Memory, NotSupported, OutOfMemory, Paged
from anychip_sdk.kits.host import host_memory
from anychip_sdk.kits.jax.errors import FAULTS, first_line
from anychip_sdk.kits.jax.ranks import Ranks
from anychip_sdk.kits.jax.scaled import FORMATS, Pages, ScaledPages
from anychip_sdk.kits.jax.weights import JAX_DTYPES
from anychip_sdk.kits.paging import plan_pages

KV = tuple[tuple[Pages, Pages], ...]
"""Per group: K [layers, pages, K, page_size, D] and V [layers, pages, K, page_size, Dv]. One head of one page is a
matrix whose last two axes fill a TPU's tiles. All layers are one array, since a scan over layers carries it: XLA
updates what a loop carries in place. In 8 bits there is an array of scales beside each."""

PAGE_SIZES = tuple(2**n for n in range(9))
COPIES = 16
"""Pages copied by one program; fewer are padded with copies of scratch onto itself."""


class JaxAllocator(Allocator):
    extends = ("default_page_size",)
    default_page_size = 16

    def __init__(self, ranks: Ranks, dtypes: Sequence[KVDType], page_sizes: Sequence[int] = PAGE_SIZES) -> None:
        """dtypes: what KV may be kept in; page_sizes: in tokens. Both as the device claims."""
        self._ranks, self._dtypes, self._page_sizes = ranks, dtypes, page_sizes
        self.most_seqs: int | None = None
        """of a step; None before a layout was made"""
        self.most_pages: int | None = None
        """of a sequence"""

    def memory(self) -> Memory:
        """That of all ranks, as the fullest of them counts."""
        devices = self._ranks.devices
        found = [] if devices[0].platform == "cpu" else [device.memory_stats() for device in devices]
        if not all(found) or not found:
            return host_memory()
        total = min(stats["bytes_limit"] for stats in found)
        free = min(stats["bytes_limit"] - stats["bytes_in_use"] for stats in found)
        return Memory(free * len(found), total * len(found))

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        sizes = self._page_sizes
        default = self.default_page_size if self.default_page_size in sizes else sizes[0]
        size = default if page_size is None else page_size
        if size not in sizes:
            raise NotSupported(f"there are no pages of {size} tokens; use {', '.join(map(str, sizes))}")
        for group in spec.groups:
            self._refuse_uneven(group.kv_heads)
        if spec.dtype not in self._dtypes:
            raise NotSupported(f"no KV is kept in {spec.dtype}; use {', '.join(self._dtypes)}")
        self.most_seqs, self.most_pages = slots - 1, -(-max_len // size)
        padded = self._padded(spec, size)
        return plan_pages(spec, budget=budget, page_size=size, max_len=max_len, slots=slots, padded=padded)

    def _refuse_uneven(self, heads: int) -> None:
        """Raises NotSupported for KV heads that the chips do not divide, naming how many chips do."""
        size = self._ranks.size
        if heads % size:
            fitting = [str(count) for count in range(1, size) if heads % count == 0]
            raise NotSupported(f"{size} chips do not divide {heads} KV heads; use {' or '.join(fitting)}")

    def _padded(self, spec: KVSpec, size: int) -> tuple[int, ...]:
        """`KVLayout.padded` of pages of `size` tokens."""
        return ()

    def allocate(self, layout: KVLayout) -> KV:
        try:
            kv = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype, device=a.sharding), self._describe(layout))
            return jax.block_until_ready(kv)
        except FAULTS as error:
            raise OutOfMemory(f"no memory for {layout.pages} KV pages: {first_line(error)}; ask for fewer") from error

    def _describe(self, layout: KVLayout) -> KV:
        """What `allocate` makes, with `ShapeDtypeStruct` for arrays. KV heads are split among ranks."""
        kept, size, sharding = layout.spec.dtype, layout.page_size, self._ranks.split(2)

        def array(shape: tuple[int, ...], dtype: np.dtype) -> Any:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        def cache(group: Paged, pages: int, width: int) -> Any:
            page = (group.layers, pages, group.kv_heads)
            if kept not in FORMATS:
                return array((*page, size, width), JAX_DTYPES[kept])
            scales = array((*page, *self._row_of_scales(size)), np.dtype(np.float32))
            return ScaledPages(array((*page, size, width), FORMATS[kept]), scales)

        groups = zip(layout.spec.groups, layout.pages, strict=True)
        return tuple((cache(g, pages, g.k_dim), cache(g, pages, g.v_dim)) for g, pages in groups)

    def _row_of_scales(self, size: int) -> tuple[int, ...]:
        """Shape of the scales of one head in one page."""
        return (size,)

    def free(self, kv: KV) -> None:
        for array in jax.tree.leaves(kv):
            array.delete()

    def copy_pages(self, kv: KV, group: int, source: np.ndarray, target: np.ndarray) -> KV:
        caches = kv[group]
        for start in range(0, len(source), COPIES):
            pairs = np.zeros((2, COPIES), np.int32)
            for row, pages in zip(pairs, (source, target), strict=True):
                part = pages[start : start + COPIES]
                row[: len(part)] = part
            caches = _copy(caches, jax.device_put(pairs, self._ranks.whole))
        return (*kv[:group], caches, *kv[group + 1 :])


@partial(jax.jit, donate_argnums=0)
def _copy(caches: tuple[Pages, Pages], pairs: Array) -> Any:
    """pairs: [2, COPIES] int32, pages to read and pages to write."""

    def copied(cache: Array) -> Array:
        if cache.shape[-2] > 1:
            return cache.at[:, pairs[1]].set(cache[:, pairs[0]])
        # Rows of scales go page by page: for a scatter XLA would turn all of them into another layout and back.
        return lax.fori_loop(0, COPIES, partial(_copy_page, pairs), cache)

    return jax.tree.map(copied, caches)


def _copy_page(pairs: Array, i: Array, cache: Array) -> Array:
    page = lax.dynamic_index_in_dim(cache, pairs[0, i], axis=1)
    return lax.dynamic_update_index_in_dim(cache, page, pairs[1, i], axis=1)
