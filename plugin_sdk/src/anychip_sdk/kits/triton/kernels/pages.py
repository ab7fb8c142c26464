"""Copies of KV pages."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from anychip_sdk.kits.triton.launch import Launcher

BLOCK = 4096


@triton.jit(do_not_specialize_on_alignment=["source", "target"])
def copy_pages_kernel(cache: tl.tensor, source: tl.tensor, target: tl.tensor, size: int, BLOCK: tl.constexpr) -> None:
    """BLOCK values of one page."""
    from_ = tl.load(source + tl.program_id(0)).to(tl.int64)
    to = tl.load(target + tl.program_id(0)).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(cache + from_ * size + i, mask=i < size)
    tl.store(cache + to * size + i, value, mask=i < size)


def copy_pages(launch: Launcher, cache: Tensor, source: Tensor, target: Tensor) -> None:
    """cache: [pages, ...] in one run of memory; source, target: [N] int32 without a page in both."""
    size = cache[0].numel()
    launch(copy_pages_kernel, (len(source), triton.cdiv(size, BLOCK)), cache, source, target, size, BLOCK=BLOCK)
