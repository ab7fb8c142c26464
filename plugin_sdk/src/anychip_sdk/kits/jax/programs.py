"""Steps as compiled programs: one for each key, compiled when it is first run, or ahead."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jax import Array

from anychip_sdk.contract import DeviceError, Sampled, Step, StepKey, view, words
from anychip_sdk.contract.batch import Shapes
from anychip_sdk.contract.specs import Bucket
from anychip_sdk.kits.jax.errors import FAULTS, as_contract_error
from anychip_sdk.kits.jax.kept import Compiler, compile_alone

LOG = logging.getLogger(__name__)
MAX_COMPILERS = 8
"""Programs that are compiled at the same time, at most; each takes a core and up to a few GB of host memory."""

Executable = Callable[[Any, Any, Any, Array], tuple[dict[str, Array], Any, Any]]
"""(weights, kv, state, buffer) -> fields of Sampled, kv, state."""


class Programs:
    """All programs of one device. `expect` says which keys will come: the first program asked for then brings all of
    them, compiled side by side. After that, a key with shapes that nobody expected is an error rather than minutes of
    compiling in the middle of serving. Expected shapes with another kind of sampling (`StepKey.sample`) or more logit
    rows (prompt logprobs), of which there are too many to compile ahead, are compiled when they come, and logged."""

    def __init__(self, options: Mapping[str, Any] | None = None, compiler: Compiler = compile_alone) -> None:
        """options: XLA's, for every program. compiler: `Kept.compile` where devices share programs."""
        self._options, self._compiler = options, compiler
        # Gone with their step: a CPU backend's programs take some of the few memory maps that a process may have.
        self._programs: WeakKeyDictionary[Step, dict[StepKey, Future[Executable]]] = WeakKeyDictionary()
        self._expected: tuple[StepKey, ...] = ()
        self._shapes: frozenset[Bucket] = frozenset()
        self._pool = ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_COMPILERS), "anychip-compile")

    def expect(self, keys: Sequence[StepKey]) -> None:
        self._expected = tuple(keys)

    def get(self, step: Step, key: StepKey, plan_shapes: Callable[[Bucket], Shapes], arguments: Any) -> Executable:
        """arguments: (weights, kv, state, buffer) of the first run; all keys get the same weights, kv and state.
        Raises DeviceError for shapes that were not expected, and what compiling raises; the next call tries again."""
        if self._expected:
            expected, self._expected = self._expected, ()
            LOG.info("compiling %d programs ahead", len(expected))
            for one in expected:
                self._submit(step, one, plan_shapes, arguments)
            self._shapes = frozenset(_but_rows(one.bucket) for one in expected)
        programs = self._programs.setdefault(step, {})
        if key not in programs:
            self._check(key)
            self._submit(step, key, plan_shapes, arguments)
        try:
            return programs[key].result()
        except BaseException:
            del programs[key]
            raise

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._programs.clear()

    def _check(self, key: StepKey) -> None:
        if self._shapes and _but_rows(key.bucket) not in self._shapes:
            raise DeviceError(
                f"a step needs {key.bucket}, which is none of the {len(self._shapes)} shapes compiled at the start; "
                "this is a fault of whoever named them, not of the request"
            )
        if self._shapes:
            rows = key.bucket.rows
            LOG.warning("compiling a program for %s and %d rows: it was not compiled at the start", key.sample, rows)

    def _submit(self, step: Step, key: StepKey, plan_shapes: Callable[[Bucket], Shapes], arguments: Any) -> None:
        weights, kv, state, _ = jax.tree.map(_described, arguments)
        shapes = plan_shapes(key.bucket)
        whole = arguments[-1].sharding
        devices = tuple(device.id for device in whole.mesh.devices.flat)
        buffer = jax.ShapeDtypeStruct((words(key, shapes),), np.int32, sharding=whole)

        def compiled() -> Executable:
            lowered = lower(step, key, shapes, weights, kv, state, buffer)
            program = self._compiler(lowered, self._options, devices)
            LOG.info("compiled %s", key)
            return program

        self._programs.setdefault(step, {})[key] = self._pool.submit(compiled)


def _but_rows(bucket: Bucket) -> Bucket:
    return replace(bucket, rows=0)


def _described(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def lower(step: Step, key: StepKey, plan_shapes: Shapes, weights: Any, kv: Any, state: Any, buffer: Any) -> Any:
    """A step before it is compiled, from descriptions of its arrays. KV and state are given up and come back as they
    were laid out."""
    same = jax.tree.map(lambda array: array.sharding, (kv, state))
    run = _traceable(step, key, plan_shapes)
    # Unused arguments stay: else programs that differ in what they leave out would look the same (see `Kept`).
    program = jax.jit(run, donate_argnums=(1, 2), out_shardings=(buffer.sharding, *same), keep_unused=True)
    return program.lower(weights, kv, state, buffer)


def _traceable(step: Step, key: StepKey, shapes: Shapes) -> Executable:
    def run(weights: Any, kv: Any, state: Any, buffer: Array) -> tuple[dict[str, Array], Any, Any]:
        sampled, kv, state = step(weights, kv, state, view(buffer, key, shapes))
        return {name: value for name, value in vars(sampled).items() if value is not None}, kv, state

    return run


class JaxPending:
    """Arrays of a running program, whose copies to the host have been queued."""

    def __init__(self, fields: dict[str, Array]) -> None:
        self._fields = fields
        for array in fields.values():
            array.copy_to_host_async()

    def get(self) -> Sampled:
        try:
            return Sampled(**{name: np.asarray(array) for name, array in self._fields.items()})
        except FAULTS as error:
            raise as_contract_error(error) from error
