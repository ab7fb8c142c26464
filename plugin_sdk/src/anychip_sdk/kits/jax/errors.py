"""JAX's errors in the contract's words."""

from __future__ import annotations

import jax

from anychip_sdk.contract import DeviceError, OutOfMemory

FAULTS = (jax.errors.JaxRuntimeError, MemoryError)
"""What a device that fails raises."""


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def as_contract_error(error: Exception) -> DeviceError:
    """JAX has one class for all faults of a device; its message begins with the kind."""
    line = first_line(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line:
        return OutOfMemory(f"no memory for the step: {line}")
    return DeviceError(f"the step failed: {line}")
