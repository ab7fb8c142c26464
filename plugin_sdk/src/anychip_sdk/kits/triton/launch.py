"""How a kernel is started: on the device, or as a record of what would be compiled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from anychip_sdk.contract import ContractError

Grid = tuple[int, ...]


class Launcher:
    """Starts kernels on the device of their arguments."""

    def __call__(self, kernel: Any, grid: Grid, *args: Any, warps: int = 4, stages: int = 2, **constants: Any) -> None:
        """grid: programs along up to three axes; nothing runs where one of them is 0.

        Raises ContractError for bfloat16 under Triton's interpreter, which miscomputes it without a word."""
        if isinstance(kernel, InterpretedFunction):
            _refuse_bfloat16(kernel, args)
        if all(grid):
            kernel[grid](*args, num_warps=warps, num_stages=stages, **constants)


def _refuse_bfloat16(kernel: Any, args: tuple[Any, ...]) -> None:
    if any(isinstance(a, Tensor) and a.dtype == torch.bfloat16 for a in args):
        raise ContractError(
            f"{kernel.fn.__name__} was given bfloat16 under TRITON_INTERPRET=1, which miscomputes it; "
            "use float32 or float16, or a device"
        )


@dataclass(frozen=True)
class Launch:
    """One start of a kernel, as the compiler sees it."""

    kernel: Any
    args: tuple[Any, ...]
    warps: int
    stages: int
    constants: dict[str, Any]


@dataclass
class Recorder(Launcher):
    """Keeps every launch and runs none, so that kernels can be compiled for a device that is not there. The tensors
    may be on torch's device `meta`."""

    launches: list[Launch] = field(default_factory=list)

    def __call__(self, kernel: Any, grid: Grid, *args: Any, warps: int = 4, stages: int = 2, **constants: Any) -> None:
        self.launches.append(Launch(kernel, args, warps, stages, constants))
