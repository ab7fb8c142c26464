"""The device: TPU chips, or JAX's CPU backend in their place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import jax
from anychip_sdk.contract import SCALED_KV, Capabilities, DeviceError, DeviceInfo, DType, KVDType
from anychip_sdk.kits.jax import Buckets, JaxDevice, Kept, Ranks
from anychip_sdk.kits.jax.kept import compile_alone

from anychip_tpu.allocator import EMULATED_BYTES, PAGE_SIZES, TpuAllocator
from anychip_tpu.emulation import mode
from anychip_tpu.kernels import strict
from anychip_tpu.kernels.interpreters import EMULATIONS, Interpret
from anychip_tpu.ops import TpuOps

DTYPES: tuple[DType, ...] = ("bfloat16", "float32")
KV_DTYPES: tuple[KVDType, ...] = (*DTYPES, *SCALED_KV)
CAPABILITIES = Capabilities(
    weight_dtypes=DTYPES,
    kv_dtypes=KV_DTYPES,
    page_sizes=PAGE_SIZES,
    sliding_window=True,
    softcap=True,
    sinks=True,
    moe=True,
    device_feedback=True,
    asynchronous=True,
    step_tokens=2048,
)
BUCKETS = Buckets(coarse=16)
"""Unused columns of the page table and rows of sequences cost a little of the upload, and nothing of the kernels."""

EMULATED = replace(CAPABILITIES, step_tokens=256, warm_up=False)
EMULATED_BUCKETS = Buckets(tokens=32, growth=4, coarse=16)
"""A program takes a second or two to compile, so there are few, and each is compiled when it comes; but every row of
padding costs as much as a real one."""


QUICK_COMPILER = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""Emulated kernels are long programs that run a few times. Level 1 takes a quarter longer to compile than 0, and what
it makes is four times as fast; all optimisations take twice as long."""


class TpuDevice(JaxDevice):
    def __init__(
        self,
        info: DeviceInfo,
        ranks: Ranks,
        interpret: Interpret = False,
        buckets: Buckets | None = None,
        kept: Kept | None = None,
    ) -> None:
        if interpret:
            self._compiler_options = QUICK_COMPILER if interpret is True else strict.COMPILER
        capabilities, own = (EMULATED, EMULATED_BUCKETS) if interpret else (CAPABILITIES, BUCKETS)
        super().__init__(info, capabilities, ranks, buckets or own, kept.compile if kept else compile_alone)
        self.ops = TpuOps(ranks, interpret)
        self.allocator = TpuAllocator(ranks, KV_DTYPES, EMULATED_BYTES if interpret else None)


def open_chips(info: DeviceInfo, indices: Sequence[int]) -> TpuDevice:
    """Raises DeviceError, in one line, where libtpu does not start."""
    try:
        chips = jax.devices("tpu")
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"JAX does not start the TPU: {reason}; see that no other process has it") from error
    if max(indices) >= len(chips):
        raise DeviceError(f"JAX sees {len(chips)} TPU chips; expected {max(indices) + 1}: see TPU_VISIBLE_CHIPS")
    _keep_programs()
    return TpuDevice(info, Ranks.of([chips[i] for i in indices]))


def _keep_programs() -> None:
    """Compiled programs are kept on disk, where the user says so (JAX_COMPILATION_CACHE_DIR) or in their cache. Not for
    the emulation: JAX 0.10 crashes at times when it writes the programs of its CPU backend."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "anychip/tpu"))


CPU_DEVICES = 4
"""Twice the chips of the largest emulated device: XLA has a thread for each, and each chip may wait for a kernel of the
strict emulation, which needs one too."""


def open_emulated(info: DeviceInfo, count: int, kept: Kept) -> TpuDevice:
    """JAX is told to look for no accelerator, unless the user has said where it is to run (JAX_PLATFORMS), and to have
    as many devices as any emulated one needs: it cannot be told later. Raises DeviceError where JAX runs already, with
    fewer devices."""
    with suppress(RuntimeError):  # it runs already
        if jax.config.values["jax_platforms"] is None:
            jax.config.update("jax_platforms", "cpu")
        if jax.config.values["jax_num_cpu_devices"] < CPU_DEVICES:
            jax.config.update("jax_num_cpu_devices", CPU_DEVICES)
    devices = jax.devices("cpu")
    if len(devices) < count:  # another library has started JAX
        raise DeviceError(f"JAX runs with {len(devices)} CPU device; expected {count}: open {info.name} first")
    return TpuDevice(info, Ranks.of(devices[:count]), EMULATIONS[mode()], kept=kept)
