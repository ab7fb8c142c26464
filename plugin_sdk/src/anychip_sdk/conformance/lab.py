"""Runs a piece of a step on the device under test, on the oracle and on the reference, and compares.

A piece is written once, in ops, as models are: `body(ops, w, batch, kv) -> (rows, kv)`. The suite knows nothing of the
device's arrays: they get in as embedding tables, and out as logits through a product with the identity, as the
`top_logprobs` of a step that `Device.compile` made. So a device is used as the core uses it, and in no other way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.inputs import Given, linear
from anychip_sdk.conformance.numerics import Verdict, judge
from anychip_sdk.conformance.reference import ReferenceDevice
from anychip_sdk.contract import (
    Batch,
    Device,
    DeviceInfo,
    DType,
    KVDType,
    KVLayout,
    KVSpec,
    Paged,
    Pending,
    Sampled,
    SampleKind,
    StepKey,
    StoredWeight,
)
from anychip_sdk.kits.numpy import NumpyDevice

Array = NDArray[Any]
Body = Callable[[Any, Mapping[str, Any], Batch, Any], tuple[Any, Any]]
Weights = Mapping[str, Given]


def layout(groups: Sequence[Paged], dtype: KVDType, page_size: int, pages: int, slots: int = 64) -> KVLayout:
    return KVLayout(KVSpec(tuple(groups), dtype), page_size, (pages,) * len(groups), slots)


class Bench:
    """A device with weights, a KV cache and state on it."""

    def __init__(
        self, device: Device, dtype: DType, weights: Weights, kv: KVLayout | None = None, form: DType | None = None
    ) -> None:
        self.device, self.dtype = device, dtype
        self.weights = {name: self._pack(given, form) for name, given in weights.items()}
        self._layout = kv
        self.kv: Any = None
        self.renew()
        self._eyes: dict[int, Any] = {}
        self._steps: dict[tuple[Body, int | None], Any] = {}

    def _pack(self, given: Given, form: DType | None = None) -> Any:
        read, shapes = given.reader(form)
        return self.device.pack(given.spec, read, shapes, self.dtype)

    def renew(self) -> None:
        """A new KV cache and a new state in the place of any before; steps and what a device compiled for them stay."""
        self.close()
        self.kv = None if self._layout is None else self.device.allocator.allocate(self._layout)
        self.state = self.device.state(64 if self._layout is None else self._layout.slots)

    def restore(self) -> None:
        """Puts what `Device.restore` makes of each weight in its place, from bytes as a file would hold them."""
        for name, handle in self.weights.items():
            stored = self.device.store(handle)
            facts = json.loads(json.dumps(stored.facts))
            arrays = tuple(_mapped(np.asarray(array).tobytes()) for array in stored.arrays)
            self.weights[name] = self.device.restore(StoredWeight(facts, arrays))

    def run(self, body: Body, exact: Batch, width: int | None = None) -> Array:
        """-> [R, width] float32 of the batch's logit rows. width None: the body gives logits already."""
        return self.launch(self._step(body, width), exact, width)[: int(exact.counts[2])]

    def launch(self, step: Any, exact: Batch, width: int | None) -> Array:
        columns = width or int(exact.key.sample.logprobs or 1)
        kind = replace(exact.key.sample, logprobs=columns)
        found = self.sampled(step, exact, kind, self._with_eye(width)).top_logprobs
        assert found is not None, "the step returned top_logprobs, but the pending result has none"
        return np.asarray(found)

    def sampled(self, step: Any, exact: Batch, kind: SampleKind, weights: Any = None) -> Sampled:
        """Compiles and runs one step as the core's runner does, and waits for it."""
        return self.begin(step, exact, kind, weights).get()

    def pending(self, body: Body, exact: Batch, width: int) -> Pending:
        """A step on its way; its rows are the result's `top_logprobs`."""
        kind = replace(exact.key.sample, logprobs=width)
        return self.begin(self._step(body, width), exact, kind, self._with_eye(width))

    def begin(self, step: Any, exact: Batch, kind: SampleKind, weights: Any = None) -> Pending:
        """Launches without waiting."""
        bucket = self.device.bucket(exact.key.bucket)
        key = StepKey(bucket, kind, exact.key.feed)
        attention = self.device.ops.attention
        buffer, batch = batches.lend_and_fill(self.device.lend, key, attention.plan_shapes(bucket), exact)
        static = attention.plan(batch)
        if static is not None:
            key = replace(key, static=static)
        compiled = self.device.compile(step, key)
        pending, self.kv, self.state = compiled(
            self.weights if weights is None else weights, self.kv, self.state, buffer
        )
        return pending

    def _with_eye(self, width: int | None) -> dict[str, Any]:
        if width is None:
            return self.weights
        if width not in self._eyes:
            self._eyes[width] = self._pack(linear(np.eye(width, dtype=np.float32)))
        return {**self.weights, "eye": self._eyes[width]}

    def _step(self, body: Body, width: int | None) -> Any:
        """The same one for the same body, as an engine has one step: a device that compiles need not do so again."""
        if (body, width) not in self._steps:
            self._steps[body, width] = self._make_step(body, width)
        return self._steps[body, width]

    def _make_step(self, body: Body, width: int | None) -> Any:
        ops = self.device.ops

        def step(w: Any, kv: Any, state: Any, batch: Batch) -> tuple[Sampled, Any, Any]:
            batch = ops.attention.begin(batch)
            y, kv = body(ops, w, batch, kv)
            if width is not None:
                y = ops.logits(ops.take(y, batch.logit_rows), w["eye"])
            return Sampled(batch.logit_rows, top_logprobs=y), kv, state

        return step

    def close(self) -> None:
        if self.kv is not None:
            self.device.allocator.free(self.kv)
            self.kv = None


def _mapped(data: bytes) -> Array:
    """The bytes, from a multiple of 4096 on."""
    room = np.empty(len(data) + 4096, np.uint8)
    start = -room.ctypes.data % 4096
    room[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return room[start : start + len(data)]


class Plain(Bench):
    """A numpy device: the body is called, and its rows are looked at as they are. The oracle quantises nothing."""

    def _pack(self, given: Given, form: DType | None = None) -> Any:
        if not isinstance(self.device, ReferenceDevice):
            given = replace(given, spec=replace(given.spec, quantize=None))
        return super()._pack(given, form)

    def launch(self, step: Any, exact: Batch, width: int | None) -> Array:
        raise NotImplementedError("a plain bench runs bodies only")

    def run(self, body: Body, exact: Batch, width: int | None = None) -> Array:
        with np.errstate(all="ignore"):
            y, self.kv = body(self.device.ops, self.weights, exact, self.kv)
        if width is not None:
            y = y[exact.logit_rows]
        found: Array = y[: int(exact.counts[2])]
        return found


def oracle_device() -> NumpyDevice:
    return NumpyDevice(DeviceInfo(name="oracle", description="numpy in float64", details={}))


class Trio:
    """The same weights and pages on the device, the oracle and the reference."""

    def __init__(
        self, device: Device, dtype: DType, weights: Weights, kv: KVLayout | None = None, form: DType | None = None
    ) -> None:
        self.dtype = dtype
        self.device = Bench(device, dtype, weights, kv, form)
        kv_dtype = dtype if kv is None else kv.spec.dtype
        wide = None if kv is None else replace(kv, spec=replace(kv.spec, dtype="float64"))
        self.oracle = Plain(oracle_device(), "float64", weights, wide)
        reference = ReferenceDevice(dtype, kv_dtype)
        own = reference.capabilities.kv_dtypes[0]
        held = None if kv is None else replace(kv, spec=replace(kv.spec, dtype=own))
        self.reference = Plain(reference, dtype, weights, held)

    @property
    def benches(self) -> tuple[Bench, Bench, Bench]:
        return self.device, self.oracle, self.reference

    def run(self, body: Body, exact: Batch, width: int | None = None) -> tuple[Array, Array, Array]:
        """(device's, oracle's, reference's) rows."""
        device, oracle, reference = (bench.run(body, exact, width) for bench in self.benches)
        return device, oracle, reference

    def judge(self, body: Body, exact: Batch, width: int | None = None) -> tuple[Verdict, Array]:
        """The verdict, and what the device gave."""
        device, oracle, reference = self.run(body, exact, width)
        return judge(device, oracle, reference, self.dtype), device

    def close(self) -> None:
        for bench in self.benches:
            bench.close()
