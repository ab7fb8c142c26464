"""Kernels in Pallas's model of a TPU. Each is a program of its own, which the step calls on the host: one serves
all layers, steps and devices with its shapes, and a failure ends the step that has it and no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from anychip_sdk.contract import DeviceError
from anychip_sdk.kits.jax.errors import FAULTS, reason
from jax.experimental.pallas import tpu as pltpu

from anychip_tpu.kernels.model import adapt
from anychip_tpu.kernels.races import Races

Kernel = Callable[..., Any]
Static = tuple[tuple[str, Any], ...]
STRICT = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="raise", uninitialized_memory="nan")
COMPILER = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Kernels, and the steps around them, are mostly calls of the model. Made in one part each, they take
a third of the memory maps, of which a process may have few."""
MOST = 64
"""Programs that are kept, those that were used last."""
_ONE = threading.Lock()
"""The model has one memory for the whole process."""


def run(kernel: Kernel, *arrays: Any, **static: Any) -> Any:
    """kernel(*arrays, interpret=STRICT, **static), called from a step that is traced. `static` is hashable, and says
    what it is in its repr. Whatever the model finds fails the step. Raises DeviceError where JAX is not as `model`
    knows it."""
    adapt(Races)
    named = tuple(sorted(static.items()))
    wanted = jax.eval_shape(partial(kernel, interpret=STRICT, **static), *arrays)
    # Only the callback knows what it does: steps that differ in that would look the same (see `kits.jax.Kept`).
    mark = np.frombuffer(sha256(f"{kernel.__name__} {named}".encode()).digest(), np.int32)
    return jax.pure_callback(partial(_on_host, kernel, named), wanted, jnp.asarray(mark), *arrays)


def _on_host(kernel: Kernel, static: Static, _: Any, *arrays: Any) -> Any:
    with _ONE:
        try:
            leaves, tree = jax.tree.flatten(arrays)
            program = _program(kernel, static, tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
            return jax.tree.map(np.asarray, program(*arrays))
        except FAULTS as error:
            _forget()
            raise DeviceError(f"{kernel.__name__} on the emulated TPU: {reason(error)}") from None


@lru_cache(MOST)
def _program(kernel: Kernel, static: Static, tree: Any, shapes: tuple[Any, ...]) -> Any:
    """For arrays of these shapes, though JAX would take others too: so programs that nobody uses go."""
    return jax.jit(partial(kernel, interpret=STRICT, **dict(static)), compiler_options=COMPILER)


def _forget() -> None:
    """What a kernel that failed left behind, in the model and in JAX's order of callbacks."""
    pltpu.reset_tpu_interpret_mode_state()
    with suppress(*FAULTS):
        jax.effects_barrier()
