"""KV pages in 8 bits: each vector is small numbers times a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from anychip_sdk.contract import KVDType

FORMATS: Mapping[KVDType, torch.dtype] = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST: Mapping[torch.dtype, float] = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


class ScaledPages(NamedTuple):
    """K or V of a layer."""

    numbers: Tensor  # [pages, K, page_size, D] of FORMATS
    scales: Tensor  # [pages, K, page_size] float32


Pages = Tensor | ScaledPages


def formats(device: torch.device | str) -> tuple[KVDType, ...]:
    """Those that a torch device can keep: fp8 needs casts from and to float32."""
    try:
        torch.ones(2, device=device).to(FORMATS["fp8"]).float()
    except (RuntimeError, TypeError):
        return ("int8",)
    return ("int8", "fp8")


def cells(pages: Pages) -> Tensor:
    """What has the shape of the pages: [pages, K, page_size, D]."""
    return pages.numbers if isinstance(pages, ScaledPages) else pages


def tensors(pages: Pages) -> list[Tensor]:
    """All of them, of dtypes that every device moves: floats of 8 bits as bytes."""
    parts = [pages.numbers, pages.scales] if isinstance(pages, ScaledPages) else [pages]
    return [_movable(t) for t in parts]


def scaled(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x: [..., D] -> its numbers in `dtype` [..., D], and their scales [...]."""
    wide, most = x.float(), LARGEST[dtype]
    scales = wide.abs().amax(-1) / most
    numbers = (wide / scales.masked_fill(scales == 0, 1.0)[..., None]).clamp(-most, most)
    return (numbers if dtype.is_floating_point else numbers.round()).to(dtype), scales


def store(pages: Pages, rows: Tensor, new: Tensor) -> None:
    """new: [N, D] to `rows` [N] of the pages seen as [pages * K * page_size, D]."""
    if not isinstance(pages, ScaledPages):
        pages.view(-1, pages.shape[-1]).index_copy_(0, rows, new.to(pages.dtype))
        return
    numbers, scales = scaled(new, pages.numbers.dtype)
    _movable(pages.numbers).view(-1, new.shape[-1]).index_copy_(0, rows, _movable(numbers))
    pages.scales.view(-1).index_copy_(0, rows, scales)


def gather(pages: Pages, rows: Tensor, dtype: torch.dtype, scratch: Tensor | None = None) -> Tensor:
    """rows of the pages seen as [pages * K, page_size, D] -> [rows, page_size, D] in `dtype`, a copy. It is made in
    `scratch`, of that shape with as many rows or more, where pages are kept in that dtype."""
    if not isinstance(pages, ScaledPages):
        flat = pages.view(-1, *pages.shape[2:])
        if scratch is not None and pages.dtype == dtype:
            return torch.index_select(flat, 0, rows, out=scratch[: len(rows)])
        return flat.index_select(0, rows).to(dtype)
    flat = _movable(pages.numbers).view(-1, *pages.numbers.shape[2:])
    numbers = flat.index_select(0, rows).view(pages.numbers.dtype)
    scales = pages.scales.view(-1, pages.scales.shape[-1]).index_select(0, rows)
    return (numbers.float() * scales[..., None]).to(dtype)


def _movable(x: Tensor) -> Tensor:
    return x.view(torch.uint8) if x.is_floating_point() and x.dtype.itemsize == 1 else x
