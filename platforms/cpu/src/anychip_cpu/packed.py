"""Float weights in panels, and products with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from anychip_sdk.contract import Activation, DType, Reader, WeightSpec
from anychip_sdk.kits.torch.weights import Weight
from anychip_sdk.kits.weights import check
from torch import Tensor

from anychip_cpu.launch import Launcher
from anychip_cpu.native import ACTIVATIONS, Kernels, LinearWork, PackWork, Reads, run
from anychip_cpu.weight_memory import WeightMemory

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass
class PackedWeight(Weight):
    """`tensor`: [panels, inputs, width], in bfloat16 [panels, ceil(inputs / 2), width, 2], see AnychipKernels; of
    experts the panels of each after those of the one before.

    `outputs` and `inputs`: the shape of the weight it was made of, or of one expert's. `widened`: products with it are
    in float32, whatever it is kept in."""

    outputs: int = 0
    inputs: int = 0
    widened: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of products with it, and of an embedding's rows."""
        return torch.float32 if self.widened else self.tensor.dtype


@dataclass(frozen=True)
class Groups:
    """Rows starts[e] to starts[e + 1] go to expert e; `starts` lies at this address, and the last says how many rows
    there are."""

    starts: int
    count: int

    @property
    def live(self) -> int:
        return self.starts + 4 * self.count


def kept_dtype(spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> DType:
    """What a weight of this spec is packed in for products in `dtype`: for float32 the 16 bits that a checkpoint has it
    in, since widening them is exact wherever it is done, and a step that waits for the memory reads half as much.

    Raises ContractError where a tensor is missing."""
    if dtype != "float32" or spec.const is not None:
        return dtype
    check(spec, shapes)
    return spec.halves(lambda name: read(name, (slice(0, 0),)).dtype.name) or dtype


def pack(w: Weight, kernels: Kernels, memory: WeightMemory, *, widened: bool = False) -> PackedWeight:
    """w: a linear weight or an embedding [O, I], or experts [E, O, I], in one of DTYPES."""
    *experts, outputs, inputs = w.tensor.shape
    width = kernels.width
    shape = (-(-inputs // 2), width, 2) if w.tensor.dtype == torch.bfloat16 else (inputs, width)
    panels = memory.empty((*experts, -(-outputs // width), *shape), w.tensor.dtype)
    weight = w.tensor.contiguous()
    for from_, to in zip(weight, panels, strict=True) if experts else ((weight, panels),):
        work = PackWork(from_.data_ptr(), to.data_ptr(), None, outputs, inputs, 0, 0)
        run(kernels.of("pack", weight.dtype), work, torch.get_num_threads())
    bias = w.bias.float() if widened and w.bias is not None else w.bias
    held = {**vars(w), "tensor": panels, "bias": bias}
    return PackedWeight(**held, outputs=outputs, inputs=inputs, widened=widened)


def can_gate(sizes: tuple[int, ...], kernels: Kernels) -> bool:
    """Whether a product with outputs of these sizes can be gated: two of the same, in whole panels."""
    return len(sizes) == 2 and sizes[0] == sizes[1] and sizes[0] % kernels.width == 0


def reads(panels: Tensor, gated: Activation | None) -> Reads:
    """What a product reads of its weight [panels, ...]; of a gated one that of the gate, which comes first."""
    return Reads(panels.data_ptr(), len(panels) // (1 if gated is None else 2), panels[:1].nbytes)


def product(
    x: Tensor,
    w: PackedWeight,
    kernels: Kernels,
    launch: Launcher,
    groups: Groups | None = None,
    gated: Activation | None = None,
) -> Tensor:
    """x: [T, I] -> [T, O]; gated: -> [T, O / 2], see `can_gate`."""
    x = launch.rows(x)
    rows, inputs = x.shape
    size = w.outputs if gated is None else w.outputs // 2
    empty = launch.empty if gated is None else launch.empty_input
    y = empty((rows, size), x.dtype, like=x if groups is None else None)
    bias = None if w.bias is None else w.bias.data_ptr()
    scratch = launch.empty((rows, inputs + 16)) if x.dtype == torch.float16 else None
    live = launch.live(x) if groups is None else groups.live
    starts, count = (None, 0) if groups is None else (groups.starts, groups.count)
    work = LinearWork(
        *(x.data_ptr(), w.tensor.data_ptr(), None, bias, y.data_ptr()),
        *(None if scratch is None else scratch.data_ptr(), live, starts),
        *(x.stride(0), rows, w.outputs, inputs, y.stride(0), 0, 0, count, ACTIVATIONS[gated]),
    )
    launch.run(kernels.of("linear", x.dtype, w.tensor.dtype), work, reads(w.tensor, gated) if groups is None else None)
    return y
