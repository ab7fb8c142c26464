"""How kernels run where there is no TPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.experimental.pallas import tpu as pltpu

from anychip_tpu.kernels import strict

Interpret = bool | pltpu.InterpretParams
"""False: compiled for the TPU. True: as XLA operations, wherever JAX runs; quick, and copies are never late. Else
Pallas's model of a TPU: memory that nobody wrote is NaN, reads out of bounds and races are errors; slow."""
EMULATIONS: dict[str, Interpret] = {"quick": True, "strict": strict.STRICT}
"""By the names of `anychip_tpu.emulation`."""


def call(kernel: Callable[..., Any], interpret: Interpret, *arrays: Any, **static: Any) -> Any:
    """kernel(*arrays, interpret=interpret, **static); in Pallas's model of a TPU as `strict.run` does it."""
    if isinstance(interpret, bool):
        return kernel(*arrays, interpret=interpret, **static)
    return strict.run(kernel, *arrays, **static)
