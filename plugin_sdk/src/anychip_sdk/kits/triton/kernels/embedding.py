"""The embedding's gather."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from anychip_sdk.kits.triton.launch import Launcher

BLOCK = 1024


@triton.jit(do_not_specialize_on_alignment=["ids"])
def embedding_kernel(
    ids: tl.tensor, table: tl.tensor, y: tl.tensor, size: int, scale: float, SCALED: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """BLOCK values of one token's row."""
    token = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(ids + token).to(tl.int64)
    x = tl.load(table + source * size + i, mask=i < size)
    if SCALED:
        x = (x.to(tl.float32) * scale).to(y.dtype.element_ty)
    tl.store(y + token * size + i, x, mask=i < size)


def embedding(launch: Launcher, ids: Tensor, table: Tensor, scale: float) -> Tensor:
    """ids: [T], table: [V, E] -> [T, E], times `scale` rounded to the table's dtype."""
    size = table.shape[1]
    y = torch.empty(len(ids), size, dtype=table.dtype, device=table.device)
    rounded = torch.tensor(scale, dtype=table.dtype).item()
    grid = (len(ids), triton.cdiv(size, BLOCK))
    launch(embedding_kernel, grid, ids, table, y, size, rounded, SCALED=scale != 1.0, BLOCK=BLOCK)
    return y
