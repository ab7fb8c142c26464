"""The ops that Intel Extension for PyTorch 2.8 has, for `--provider ipex`. What it lacks goes the way of `CpuOps`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from anychip_sdk.contract import Communicator, DeviceError
from anychip_sdk.kits.torch.weights import TORCH_DTYPES, Weight
from torch import Tensor

from anychip_cpu.ipex_attention import ATTENTION, IpexAttention, rotate
from anychip_cpu.onednn import TYPICAL_ROWS, can_pack
from anychip_cpu.onednn_ops import DTYPES, CpuOps
from anychip_cpu.providers import IPEX_MODULE

OPS: Mapping[str, str] = {
    "rms_norm": "rmsnorm",
    "add_rms_norm": "add_rmsnorm",
    "rope": "rotary_position_embedding",
}
"""Op -> the functions of torch.ops.torch_ipex that compute it."""


@dataclass
class IpexWeight(Weight):
    """`packed`: IPEX's own layout of [outputs, I]; a linear weight has no other, and an embedding gets it when it first
    serves as the head."""

    outputs: int = 0
    packed: Any = None


class IpexOps(CpuOps):
    def __init__(self, communicator: Communicator) -> None:
        """Raises DeviceError where the extension does not load."""
        super().__init__(communicator)
        version = _load()
        self.attention = IpexAttention()
        served = {
            **dict.fromkeys(("linear", "linear_split", "logits"), _products()),
            **OPS,
            **{f"attention.{name}": by for name, by in ATTENTION.items()},
        }
        self.provided: Mapping[str, str] = {  # type: ignore[misc]  # of what is installed, not of the class
            name: f"{IPEX_MODULE} {version}: {by}" for name, by in served.items()
        }

    def _pack(self, w: Weight, *, embedding: bool) -> Weight:
        if not can_pack(w.tensor.dtype):  # IPEX has oneDNN's products as well, for the same processors
            return super()._pack(w, embedding=embedding)
        packed = IpexWeight(**vars(w), outputs=len(w.tensor))
        if not embedding:
            packed.packed = _prepacked(w.tensor, w.bias)
            packed.tensor = packed.packed.get_weight()
        return packed

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        if not isinstance(w, IpexWeight):
            return super()._matmul(x, w)
        if w.packed is None:
            w.packed = _prepacked(w.tensor, w.bias)
        product = torch.ops.torch_ipex.ipex_MKLSGEMM if x.dtype == torch.float32 else torch.ops.torch_ipex.ipex_linear
        y: Tensor = product(x, w.packed.get_weight(), w.bias, w.packed.get_data_handle(), w.outputs)
        return y

    def rms_norm(self, x: Tensor, w: Weight, eps: float) -> Tensor:
        return torch.ops.torch_ipex.rmsnorm(x, w.tensor, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, w: Weight, eps: float) -> tuple[Tensor, Tensor]:
        total = residual.clone(memory_format=torch.contiguous_format)  # IPEX adds to it in place
        return torch.ops.torch_ipex.add_rmsnorm(x, total, w.tensor, eps, True), total

    def rope_angles(self, positions: Tensor, w: Weight) -> Tensor:  # type: ignore[override]  # angles as IPEX takes them
        angles = positions.to(torch.float32)[:, None] * w.tensor
        return torch.cat((angles.sin(), angles.cos()), 1)

    def rope(self, x: Tensor, angles: Any) -> Tensor:
        return rotate(x, angles)


def _products() -> str:
    """What multiplies in which dtype on this processor."""
    halves = [name for name in DTYPES[1:] if can_pack(TORCH_DTYPES[name])]
    left = [name for name in DTYPES[1:] if name not in halves]
    words = ["ipex_MKLSGEMM in float32", *(f"ipex_linear in {name}" for name in halves)]
    return ", ".join([*words, *(f"the torch kit in {name}" for name in left)])


def _prepacked(weight: Tensor, bias: Tensor | None) -> Any:
    """weight: [O, I], bias: [O]. IPEX's own choice: MKL's products in float32, oneDNN's in 16 bits."""
    pack = torch.ops.ipex_prepack
    make = pack.mkl_sgemm_prepack if weight.dtype == torch.float32 else pack.linear_prepack
    return make(weight, bias, TYPICAL_ROWS)


def _load() -> str:
    """Registers torch.ops.torch_ipex. -> its version."""
    try:
        import intel_extension_for_pytorch as ipex
    except (Exception, SystemExit) as error:  # whatever a library does that is archived
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DeviceError(f"{IPEX_MODULE} is installed but does not load: {line}") from error
    return str(ipex.__version__)
