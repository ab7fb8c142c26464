"""Pallas's model of a TPU as the strict emulation needs it. What is private of JAX is touched here and nowhere else."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from anychip_sdk.contract import DeviceError


def adapt(record: type) -> None:
    """From now on the model keeps its accesses in a `record`, and its calls get what they need as numpy has it: JAX
    makes arrays of its own of every scalar, which takes most of a kernel's time. Raises DeviceError where JAX has
    these elsewhere."""
    try:
        from jax._src import callback
        from jax._src.pallas.mosaic.interpret import interpret_pallas_call
    except ImportError as error:
        raise DeviceError(f"the strict emulation does not know this JAX: {error}; install jax 0.10") from error
    for module, name, ours in (
        (interpret_pallas_call, "RaceDetectionState", record),
        (callback, "io_callback_impl", _call),
    ):
        if not hasattr(module, name):
            raise DeviceError(f"the strict emulation does not know this JAX: no {name}; install jax 0.10")
        setattr(module, name, ours)


def _call(*arrays: Any, callback: Any, **_: Any) -> Any:
    return jax.tree.map(np.asarray, callback(*arrays))


def line_of(source_info: Any) -> str:
    """Where a kernel does something, or the call of the kernel where it is the model that does."""
    from jax._src import source_info_util

    return "pallas_call" if source_info is None else str(source_info_util.summarize(source_info))
