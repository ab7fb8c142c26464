"""KV pages as torch tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from anychip_sdk.contract import Allocator, KVDType, KVLayout, KVSpec, Memory, NotSupported, OutOfMemory
from anychip_sdk.kits.host import host_memory
from anychip_sdk.kits.paging import plan_pages
from anychip_sdk.kits.torch.scaled import FORMATS, Pages, ScaledPages, tensors
from anychip_sdk.kits.torch.weights import TORCH_DTYPES

KV = list[tuple[list[Pages], list[Pages]]]
"""Per group: K and V of each layer, [pages, K, page_size, D]: one head of one page is one run of memory."""

PAGE_SIZES = tuple(2**n for n in range(9))

TOUCHED_TOKENS, TOUCHED = 6144, 3 << 29
"""Of a cache on the host, the first pages are written when it is made: those of so many tokens, and so many bytes at
most. Else the first requests would wait while the machine finds memory for them; a virtual one may take a millisecond a
MiB. The rest takes none until used."""

SMALL_PAGE = 4096
"""Bytes of the smallest page of memory that a machine has."""

ALIGNED = 2 << 20
"""Bytes: a cache on the host begins at a multiple of them, the size of a huge page. numpy asks for huge pages for large
arrays, and the first pages of a cache are used most. A vector that crosses a cache line costs two loads."""


class TorchAllocator(Allocator):
    extends = ("default_page_size",)
    default_page_size = 16

    def __init__(
        self,
        device: torch.device,
        dtypes: Sequence[KVDType] = tuple(TORCH_DTYPES),
        page_sizes: Sequence[int] = PAGE_SIZES,
    ) -> None:
        """dtypes: what KV may be kept in; page_sizes: in tokens. Both as the device claims."""
        self._device, self._dtypes, self._page_sizes = device, dtypes, page_sizes

    def memory(self) -> Memory:
        if self._device.type == "cpu":
            return host_memory()
        free, total = torch.get_device_module(self._device).mem_get_info(self._device)
        return Memory(free, total)

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
        kv: KV = []
        try:
            for group, pages in zip(layout.spec.groups, layout.pages, strict=True):
                shape = (pages, group.kv_heads, layout.page_size)
                keys, values = (
                    [_pages((*shape, dim), layout.spec.dtype, self._device) for _ in range(group.layers)]
                    for dim in (group.k_dim, group.v_dim)
                )
                kv.append((keys, values))
        except (MemoryError, RuntimeError, ValueError) as error:  # ValueError: more than an array can ever have
            line = str(error).splitlines()[0]
            raise OutOfMemory(f"no memory for {layout.pages} KV pages: {line}; ask for fewer") from error
        if self._device.type == "cpu":
            parts = [part for sides in kv for side in sides for pages in side for part in tensors(pages)]
            _touch(parts, -(-TOUCHED_TOKENS // layout.page_size))
        return kv

    def free(self, kv: KV) -> None:
        kv.clear()

    def copy_pages(self, kv: KV, group: int, source: np.ndarray, target: np.ndarray) -> KV:
        from_, to = (torch.from_numpy(a.astype(np.int64)).to(self._device) for a in (source, target))
        for pages in (*kv[group][0], *kv[group][1]):
            for part in tensors(pages):
                part[to] = part[from_]
        return kv


def _pages(shape: tuple[int, ...], kept: KVDType, device: torch.device) -> Pages:
    if kept in FORMATS:
        return ScaledPages(_zeros(shape, FORMATS[kept], device), _zeros(shape[:-1], torch.float32, device))
    return _zeros(shape, TORCH_DTYPES[kept], device)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the host through numpy, whose zeros take no memory and no time until a page is first written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + ALIGNED, np.uint8)
    memory = memory[-memory.ctypes.data % ALIGNED :][:size]
    return torch.from_numpy(memory).view(dtype).view(shape)


def _touch(parts: list[Tensor], pages: int) -> None:
    """Writes something in the memory of as many first pages of each part, or of fewer: TOUCHED bytes in all. One thread
    a part: two in the same huge page would both clear it."""
    most = sum(part[:pages].nbytes for part in parts)
    pages = min(pages, pages * TOUCHED // max(1, most))

    def touch(part: Tensor) -> None:
        part[:pages].view(torch.uint8).view(-1).numpy()[::SMALL_PAGE] = 0  # without the interpreter's lock

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(touch, parts))
