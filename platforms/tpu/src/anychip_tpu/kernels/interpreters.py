"""How kernels run where there is no TPU."""

from __future__ import annotations

import os

from anychip_sdk.contract import DeviceError
from jax.experimental.pallas import tpu as pltpu

Interpret = bool | pltpu.InterpretParams
"""False: compiled for the TPU. True: as XLA operations, wherever JAX runs; quick, and copies are never late. Else
Pallas's model of a TPU: memory that nobody wrote is NaN, reads out of bounds raise, races are looked for; slow."""
STRICT = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="raise", uninitialized_memory="nan")
VARIABLE = "ANYCHIP_TPU_EMULATION"
MODES: dict[str, Interpret] = {"quick": True, "strict": STRICT}


def emulation() -> Interpret:
    """What `tpu-emulated` uses: "quick", unless ANYCHIP_TPU_EMULATION says "strict". Raises DeviceError."""
    mode = os.environ.get(VARIABLE, "quick")
    if mode not in MODES:
        raise DeviceError(f"{VARIABLE} is {mode!r}; expected {' or '.join(MODES)}")
    return MODES[mode]
