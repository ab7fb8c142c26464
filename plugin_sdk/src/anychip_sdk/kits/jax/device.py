"""A JAX device, whose steps are compiled programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from anychip_sdk.contract import (
    Bucket,
    Capabilities,
    Compiled,
    Device,
    DeviceInfo,
    DType,
    Layer,
    NotSupported,
    OutOfMemory,
    Reader,
    SampleKind,
    Step,
    StepKey,
    WeightSpec,
)
from anychip_sdk.kits.jax import layers
from anychip_sdk.kits.jax.allocator import JaxAllocator
from anychip_sdk.kits.jax.buckets import Buckets, few_kinds
from anychip_sdk.kits.jax.errors import FAULTS, as_contract_error, first_line
from anychip_sdk.kits.jax.kept import Compiler, compile_alone
from anychip_sdk.kits.jax.ops import JaxOps
from anychip_sdk.kits.jax.programs import JaxPending, Programs
from anychip_sdk.kits.jax.ranks import Ranks
from anychip_sdk.kits.jax.weights import Weight, describe, pack
from anychip_sdk.kits.solo import Solo


@partial(jax.tree_util.register_dataclass, data_fields=["last_token"], meta_fields=[])
@dataclass(frozen=True)
class JaxState:
    last_token: Array  # [slots] int32


class JaxDevice(Device):
    """One chip, or several that this process drives as one. Subclass it, and replace `ops` or `allocator` by what the
    chip does better."""

    _compiler_options: Mapping[str, Any] | None = None
    """XLA's options for every program, as `jax.stages.Lowered.compile` takes them."""

    def __init__(
        self,
        info: DeviceInfo,
        capabilities: Capabilities,
        ranks: Ranks,
        buckets: Buckets | None = None,
        compiler: Compiler = compile_alone,
    ) -> None:
        """compiler: `Kept.compile` where devices are to share programs."""
        self.info = info
        self.capabilities = capabilities
        self._ranks = ranks
        self._buckets = buckets or Buckets()
        self._programs = Programs(self._compiler_options, compiler)
        self.communicator = Solo()
        self.ops = JaxOps(ranks)
        self.allocator: JaxAllocator = JaxAllocator(ranks, capabilities.kv_dtypes, capabilities.page_sizes)

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        if dtype not in self.capabilities.weight_dtypes:
            raise NotSupported(f"{self.info.name} has no {dtype}; use {', '.join(self.capabilities.weight_dtypes)}")
        try:
            return pack(spec, read, shapes, dtype, self._ranks)
        except FAULTS as error:
            raise OutOfMemory(f"no memory for a weight: {first_line(error)}") from error

    def pack_layers(
        self,
        specs: Sequence[Layer],
        trees: Sequence[Mapping[str, WeightSpec]],
        read: Reader,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: DType,
    ) -> layers.Stacked:
        def described(spec: WeightSpec) -> Weight:
            return describe(spec, shapes, dtype, self._ranks)

        try:
            return layers.pack(specs, trees, lambda spec: self.pack(spec, read, shapes, dtype), described)
        except FAULTS as error:
            raise OutOfMemory(f"no memory for the layers' weights: {first_line(error)}") from error

    def state(self, slots: int) -> JaxState:
        return JaxState(jnp.zeros(slots, jnp.int32, device=self._ranks.whole))

    def bucket(self, exact: Bucket) -> Bucket:
        return self._buckets.of(exact, self.allocator.most_seqs, self.allocator.most_pages)

    def sample_kind(self, exact: SampleKind) -> SampleKind:
        return few_kinds(exact, self.capabilities.max_logprobs)

    def lend(self, words: int) -> np.ndarray:
        """A new one for each step: on the host JAX reads it where it lies, as long as the step runs."""
        return np.zeros(words, np.int32)

    def compile(self, step: Step, key: StepKey) -> Compiled:
        def run(weights: Any, kv: Any, state: Any, buffer: np.ndarray) -> tuple[JaxPending, Any, Any]:
            try:
                arguments = (weights, kv, state, jax.device_put(buffer, self._ranks.whole))
                program = self._programs.get(step, key, self.ops.attention.plan_shapes, arguments)
                fields, kv, state = program(*arguments)
            except FAULTS as error:
                raise as_contract_error(error) from error
            return JaxPending(fields), kv, state

        return run

    def warm(self, keys: Sequence[StepKey]) -> None:
        """The first step that is run compiles all of them, since it brings weights, pages and state."""
        self._programs.expect(keys)

    def close(self) -> None:
        self._programs.close()
