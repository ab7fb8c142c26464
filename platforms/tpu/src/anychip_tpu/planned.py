"""A TPU that is not here: libtpu compiles steps for it on any machine, and nothing runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from anychip_sdk.contract import (
    DeviceInfo,
    DType,
    KVLayout,
    Memory,
    NotSupported,
    OutOfMemory,
    Planned,
    Rates,
    Reader,
    Step,
    StepKey,
    WeightSpec,
)
from anychip_sdk.contract.batch import words
from anychip_sdk.kits.jax import Ranks
from anychip_sdk.kits.jax.allocator import KV
from anychip_sdk.kits.jax.device import JaxState
from anychip_sdk.kits.jax.errors import FAULTS, as_contract_error
from anychip_sdk.kits.jax.programs import lower
from anychip_sdk.kits.jax.weights import Weight, describe
from jax.experimental import topologies

from anychip_tpu.allocator import TpuAllocator
from anychip_tpu.chips import CHIPS, SLICES, Chip, planned
from anychip_tpu.device import KV_DTYPES, TpuDevice

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
COMPILER_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks the network which TPU it is on,
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # and complains that this, whichever it is,
    "TPU_WORKER_HOSTNAMES": "localhost",  # and this are not set
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else only one process at a time could compile
}
"""libtpu's environment where there is no TPU."""
KERNELS = ("ragged_paged_attention", "write_pages", "grouped_product")


def planned_chips(chip: str, count: int) -> list[jax.Device]:
    """`count` chips of a kind in CHIPS, as the compiler knows them. Raises NotSupported."""
    planned(f"{chip}-{count}")
    for name, value in COMPILER_ALONE.items():
        os.environ.setdefault(name, value)
    grid = SLICES[count] + ("x1" if chip in ("v4", "v5p") else "")  # those are three-dimensional
    try:
        return list(topologies.get_topology_desc(f"{chip}:{grid}", platform="tpu").devices)[:count]
    except (RuntimeError, ImportError) as error:
        raise NotSupported(f"libtpu knows no {chip}:{grid}: {str(error).splitlines()[0]}") from error


class PlannedDevice(TpuDevice):
    """Handles, pages and state are descriptions of arrays, and `program` compiles a step over them."""

    def __init__(self, chip: str, count: int, *, compiles: bool = True) -> None:
        """compiles: libtpu is here, and knows the chips; else there are sizes alone."""
        name = f"tpu:{chip}-{count}"
        info = DeviceInfo(name=name, description=f"{count} TPU {chip} that are not here", details={})
        super().__init__(info, Ranks.of(planned_chips(chip, count)) if compiles else Ranks.sizes(count))
        self.allocator = PlannedAllocator(self._ranks, CHIPS[chip])

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        return describe(spec, shapes, dtype, self._ranks)

    def state(self, slots: int) -> JaxState:
        tokens: Any = jax.ShapeDtypeStruct((slots,), np.int32, sharding=self._ranks.whole)
        return JaxState(tokens)

    def _program(self, step: Step, key: StepKey, weights: Any, kv: KV, state: JaxState) -> Program:
        """Raises JaxRuntimeError where it does not fit the chip's memory."""
        shapes = self.ops.attention.plan_shapes(key.bucket)
        buffer = jax.ShapeDtypeStruct((words(key, shapes),), np.int32, sharding=self._ranks.whole)
        return Program(lower(step, key, shapes, weights, kv, state, buffer).compile())


class PlannedTpu(Planned):
    def __init__(self, chip: str, count: int, no_compiler: str = "") -> None:
        with suppress(RuntimeError):  # JAX runs already
            if jax.config.values["jax_platforms"] is None:
                jax.config.update("jax_platforms", "cpu")
        kind = CHIPS[chip]
        self._device = PlannedDevice(chip, count, compiles=not no_compiler)
        self._hbm = kind.hbm
        self.device = self._device
        self.rates = Rates(chips=count, bandwidth=kind.bandwidth, flops=kind.flops, link=kind.link)
        self.no_compiler = no_compiler

    def compile(self, step: Step, key: StepKey, weights: Any, kv: Any, state: Any) -> int:
        try:
            used = self._device._program(step, key, weights, kv, state).bytes
        except FAULTS as error:
            raise as_contract_error(error) from error
        if used > self._hbm:
            raise OutOfMemory(f"it takes {used / 2**30:.2f} GiB of each chip, which has {self._hbm / 2**30:.0f}")
        return used


class PlannedAllocator(TpuAllocator):
    def __init__(self, ranks: Ranks, chip: Chip) -> None:
        super().__init__(ranks, KV_DTYPES)
        self._hbm = chip.hbm * ranks.size

    def memory(self) -> Memory:
        return Memory(self._hbm, self._hbm)

    def allocate(self, layout: KVLayout) -> KV:
        return self._describe(layout)


@dataclass(frozen=True)
class Program:
    """A step compiled for a TPU."""

    compiled: Any

    @property
    def bytes(self) -> int:
        """Of one chip's memory: weights, pages, and what the step needs beside them."""
        m = self.compiled.memory_analysis()
        return int(
            m.argument_size_in_bytes
            + m.output_size_in_bytes
            - m.alias_size_in_bytes
            + m.temp_size_in_bytes
            + m.generated_code_size_in_bytes
        )

    @property
    def temporary(self) -> int:
        return int(self.compiled.memory_analysis().temp_size_in_bytes)

    @property
    def text(self) -> str:
        return str(self.compiled.as_text())

    def kernels(self) -> dict[str, int]:
        """How often each of our kernels stands in the program; a loop holds it once."""
        calls = [line for line in self.text.splitlines() if 'custom_call_target="tpu_custom_call"' in line]
        found = {name: sum(name in line for line in calls) for name in KERNELS}
        return {name: count for name, count in found.items() if count}

    def collectives(self) -> dict[str, int]:
        found = {kind: len(re.findall(rf"= [^=]*\b{kind}(?:-start)?\(", self.text)) for kind in COLLECTIVES}
        return {kind: count for kind, count in found.items() if count}

    def copies(self, kv: KV) -> list[str]:
        """Instructions that copy a whole cache."""
        shapes = {",".join(map(str, cache.sharding.shard_shape(cache.shape))) for cache in jax.tree.leaves(kv)}
        lines = [line.strip() for line in self.text.splitlines() if re.search(r"\bcopy(-start)?\(", line)]
        return [line for line in lines if any(f"[{shape}]" in line.partition(" copy")[0] for shape in shapes)]
