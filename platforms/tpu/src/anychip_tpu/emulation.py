"""How closely `tpu-emulated` follows a TPU: what the user may ask for, without importing JAX."""

from __future__ import annotations

import os

from anychip_sdk.contract import DeviceError

VARIABLE = "ANYCHIP_TPU_EMULATION"
MODES = {
    "quick": "kernels as XLA operations",
    "strict": "kernels in Pallas's model of a TPU; races, uninitialised memory and bounds of reads checked",
}


def mode() -> str:
    """Which it is: quick, unless ANYCHIP_TPU_EMULATION says strict. Raises DeviceError."""
    asked = os.environ.get(VARIABLE) or "quick"
    if asked not in MODES:
        raise DeviceError(f"{VARIABLE} is {asked!r}; expected {' or '.join(MODES)}")
    return asked


def told() -> str:
    """For the report of a run. Raises DeviceError."""
    return f"{mode()}: {MODES[mode()]}"
