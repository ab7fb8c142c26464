"""The gated activations SiLU(gate) * up and GELU(gate) * up (tanh form, arXiv:1606.08415)."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from anychip_sdk.contract import Activation
from anychip_sdk.kits.triton.kernels.common import tanh
from anychip_sdk.kits.triton.launch import Launcher

BLOCK = 1024


@triton.jit
def gelu(x: tl.tensor) -> Any:
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x), False))  # sqrt(2 / pi)


@triton.jit
def gated_kernel(
    gate: tl.tensor,
    up: tl.tensor,
    y: tl.tensor,
    gate_stride: int,
    up_stride: int,
    size: int,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """BLOCK values of one row."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = i < size
    g = tl.load(gate + row * gate_stride + i, mask=live, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + i, mask=live, other=0.0).to(tl.float32)
    active = gelu(g) if GELU else g / (1 + tl.exp(-g))
    tl.store(y + row * size + i, (active * u).to(y.dtype.element_ty), mask=live)


def gated_activation(launch: Launcher, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
    """gate, up: [T, I], views of one product or arrays of their own -> [T, I]."""
    gate, up = (x if x.stride(1) == 1 else x.contiguous() for x in (gate, up))
    rows, size = gate.shape
    y = torch.empty(rows, size, dtype=gate.dtype, device=gate.device)
    grid = (rows, triton.cdiv(size, BLOCK))
    strides = gate.stride(0), up.stride(0)
    launch(gated_kernel, grid, gate, up, y, *strides, size, GELU=kind == "gelu_tanh", BLOCK=BLOCK)
    return y
