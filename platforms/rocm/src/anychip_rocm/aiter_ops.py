"""The ops that AMD's AITER has, for `--provider aiter`. What it lacks goes the way of `RocmOps`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from anychip_sdk.contract import Activation, Communicator, DeviceError
from anychip_sdk.kits.torch.weights import Weight
from anychip_sdk.kits.triton import Launcher, Tiles
from torch import Tensor

from anychip_rocm.ops import RocmOps
from anychip_rocm.providers import AITER, aiter_version

FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "rms_norm": ("rms_norm",),
    "add_rms_norm": ("rmsnorm2d_fwd_with_add",),
    "gated_mlp": ("silu_and_mul", "gelu_tanh_and_mul"),
}
"""Op -> the functions of AITER in it."""
ACTIVATIONS: Mapping[Activation, str] = {"silu": "silu_and_mul", "gelu_tanh": "gelu_tanh_and_mul"}
DTYPES = (torch.bfloat16, torch.float16)
"""What every release of it takes."""
RUN = 8
"""Widths are multiples of it: 16 bytes, as its kernels load them."""


@dataclass
class NormWeight(Weight):
    """`narrow`: the weight in the activations' dtype, the only one that AITER takes; None where it does not fit."""

    narrow: Tensor | None = None


def narrowed(w: Weight, dtype: torch.dtype) -> NormWeight:
    """w: a norm's, in float32."""
    narrow = w.tensor.to(dtype)
    return NormWeight(**vars(w), narrow=narrow if narrow.float().equal(w.tensor) else None)


class AiterOps(RocmOps):
    """Left to the Triton kernels: float32, widths that are no multiples of RUN, and norms whose weights would be
    rounded (Gemma's, to which one is added)."""

    def __init__(self, communicator: Communicator, launch: Launcher, tiles: Tiles) -> None:
        """Raises DeviceError where AITER does not load, or lacks a function."""
        super().__init__(communicator, launch, tiles)
        self._aiter = _load()
        rest = "in float32 and for odd widths the SDK's Triton kernel"
        self.provided: Mapping[str, str] = {  # type: ignore[misc]  # of what is installed, not of the class
            op: f"{AITER} {aiter_version()}: {', '.join(names)}; {rest}" for op, names in FUNCTIONS.items()
        }

    def rms_norm(self, x: Tensor, w: Weight, eps: float) -> Tensor:
        weight = _fitting(x, w)
        if weight is None:
            return super().rms_norm(x, w, eps)
        y: Tensor = self._call("rms_norm", x.reshape(-1, x.shape[-1]).contiguous(), weight, eps)
        return y.view(x.shape)

    def add_rms_norm(self, x: Tensor, residual: Tensor, w: Weight, eps: float) -> tuple[Tensor, Tensor]:
        weight = _fitting(x, w)
        if weight is None:
            return super().add_rms_norm(x, residual, w, eps)
        x, residual = x.contiguous(), residual.contiguous()
        y, total = torch.empty_like(x), torch.empty_like(x)
        self._call("rmsnorm2d_fwd_with_add", y, x, residual, total, weight, eps)
        return y, total

    def gated_mlp(self, x: Tensor, gate_up: Weight, down: Weight, kind: Activation) -> Tensor:
        both, width = self._matmul(x, gate_up), gate_up.sizes[0]  # [T, 2 * width], the gate first
        if _served(both, width):
            active = both.new_empty(len(both), width)
            self._call(ACTIVATIONS[kind], active, both)
        else:
            gate, up = torch.split_with_sizes(both, gate_up.sizes, -1)
            active = self.gated_activation(gate, up, kind)
        return self.linear(active, down)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Raises DeviceError: a function is compiled when it is first called, which may fail in many ways."""
        try:
            return getattr(self._aiter, name)(*arguments)
        except Exception as error:
            raise DeviceError(f"{AITER}'s {name} failed: {_line(error)}") from error


def _fitting(x: Tensor, w: Weight) -> Tensor | None:
    """The weight as AITER takes it for x: [..., N]; None where it does not serve x."""
    weight = w.narrow if isinstance(w, NormWeight) else None
    return weight if weight is not None and weight.dtype == x.dtype and _served(x, x.shape[-1]) else None


def _served(x: Tensor, width: int) -> bool:
    return x.dtype in DTYPES and width % RUN == 0 and x.numel() > 0


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _load() -> ModuleType:
    try:
        module = import_module(AITER)
    except (Exception, SystemExit) as error:  # whatever its import does
        raise DeviceError(f"{AITER} is installed but does not load: {_line(error)}") from error
    missing = [name for names in FUNCTIONS.values() for name in names if not hasattr(module, name)]
    if missing:
        raise DeviceError(f"{AITER} {aiter_version()} has no {', '.join(missing)}; install a newer one")
    return module
