"""The two ways a step runs, behind one face: over a device's ops, or by a step plugin that owns the whole graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np
from anychip_sdk.contract import (
    Batch,
    Bucket,
    Compiled,
    Device,
    KVLayout,
    Pending,
    Sampled,
    SampleKind,
    Shapes,
    Step,
    StepKey,
    StepPlugin,
)

from anychip.models.registry import Family
from anychip.models.spec import ModelSpec
from anychip.runner.host_sampling import logits_alone, logits_key, sampled_on_host


class Executor(Protocol):
    """What the runner needs of a device with a model on it."""

    asynchronous: bool

    def bucket(self, exact: Bucket) -> Bucket: ...
    def sample_kind(self, exact: SampleKind) -> SampleKind: ...
    def warm(self, keys: Sequence[StepKey]) -> None: ...
    def plan_shapes(self, bucket: Bucket) -> Shapes: ...
    def plan(self, host: Batch) -> Hashable: ...
    def lend(self, words: int) -> np.ndarray: ...
    def launch(self, key: StepKey, buffer: np.ndarray, exact: bool) -> Pending: ...
    def copy_pages(self, group: int, source: np.ndarray, target: np.ndarray) -> None: ...
    def close(self) -> None: ...


class OpsExecutor:
    """Drives a model's forward over a device's ops."""

    def __init__(self, device: Device, family: Family, spec: ModelSpec, weights: Any, layout: KVLayout) -> None:
        self._device = device
        self._weights = weights
        self._kv = device.allocator.allocate(layout)
        self._state = device.state(layout.slots)
        self._compiled: dict[StepKey, Compiled] = {}
        self._vocab_size = spec.vocab_size
        self._on_host = not device.capabilities.sampling
        self.asynchronous = device.capabilities.asynchronous
        ops = device.ops
        sample = logits_alone if self._on_host else ops.sample

        def step(weights: Any, kv: Any, state: Any, batch: Batch) -> tuple[Sampled, Any, Any]:
            batch = ops.attention.begin(batch)
            if batch.key.feed:
                batch.token_ids = ops.feed(batch, state)
            logits, kv = family.forward(ops, spec, weights, batch, kv)
            sampled, state = sample(logits, batch, state)
            return sampled, kv, state

        self._step = step
        self.bucket = device.bucket
        self.sample_kind = device.sample_kind
        self._pages = layout.pages
        self.plan_shapes = ops.attention.plan_shapes
        self.plan = ops.attention.plan
        self.lend = device.lend

    def warm(self, keys: Sequence[StepKey]) -> None:
        """Says which steps will come, and copies a page as they may. Before the first request: no page is anybody's."""
        self._device.warm(keys)
        for group in range(len(self._pages)):
            self.copy_pages(group, np.zeros(1, np.int32), np.ones(1, np.int32))

    def compile_with(self, compiler: Callable[[Step, StepKey, Any, Any, Any], int], key: StepKey) -> int:
        """What `Planned.compile` says of the step, on a device that is not here."""
        return compiler(self._step, key, self._weights, self._kv, self._state)

    def launch(self, key: StepKey, buffer: np.ndarray, exact: bool) -> Pending:
        """exact: the device runs this key's shapes as they are, so there is nothing to keep."""
        if self._on_host:
            without = logits_key(key, self._vocab_size)
            return sampled_on_host(key, buffer, lambda: self._run(without, buffer, exact))
        return self._run(key, buffer, exact)

    def _run(self, key: StepKey, buffer: np.ndarray, exact: bool) -> Pending:
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._device.compile(self._step, key)
            if not exact:
                self._compiled[key] = compiled
        pending, self._kv, self._state = compiled(self._weights, self._kv, self._state, buffer)
        return pending

    def copy_pages(self, group: int, source: np.ndarray, target: np.ndarray) -> None:
        self._kv = self._device.allocator.copy_pages(self._kv, group, source, target)

    def free(self) -> None:
        """Gives up the KV cache, and with it every step that was compiled. The device stays open."""
        self._compiled.clear()
        self._device.allocator.free(self._kv)

    def close(self) -> None:
        self.free()
        self._device.close()


class StepExecutor:
    """Hands every step to a step plugin."""

    def __init__(self, plugin: StepPlugin, layout: KVLayout) -> None:
        plugin.allocate(layout)
        self._plugin = plugin
        self._on_host = not plugin.capabilities.sampling
        self.asynchronous = plugin.capabilities.asynchronous
        self.bucket = plugin.bucket
        self.sample_kind = plugin.sample_kind
        self.lend = plugin.lend
        self.copy_pages = plugin.copy_pages
        self.close = plugin.close

    def warm(self, keys: Sequence[StepKey]) -> None:
        """A step plugin compiles what it is given to run."""

    def plan_shapes(self, bucket: Bucket) -> Shapes:
        return ()

    def plan(self, host: Batch) -> Hashable:
        return None

    def launch(self, key: StepKey, buffer: np.ndarray, exact: bool) -> Pending:
        if self._on_host:
            return sampled_on_host(key, buffer, lambda: self._plugin.run(key, buffer))
        return self._plugin.run(key, buffer)
