"""JAX's errors in the contract's words."""

from __future__ import annotations

import jax

from anychip_sdk.contract import DeviceError, OutOfMemory

FAULTS = (jax.errors.JaxRuntimeError, MemoryError)
"""What a device that fails raises."""


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def reason(error: BaseException) -> str:
    """The first line; of an error in a callback on the host, which JAX gives with its traceback, the last one, which
    says what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and "Traceback (most recent call last)" in lines[0]:
        return lines[-1].removeprefix("DeviceError: ")
    return first_line(error)


def as_contract_error(error: Exception) -> DeviceError:
    """JAX has one class for all faults of a device; its message begins with the kind."""
    line = reason(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line:
        return OutOfMemory(f"no memory for the step: {line}")
    return DeviceError(f"the step failed: {line}")
