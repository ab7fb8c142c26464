"""Speed against a roofline that is measured on the same device. It is reported; only Gold has a floor.

The roofline is what the device does best alone: one large product, of one row (bound by memory) and of many (bound by
arithmetic). The fraction is what a stack of layers, with everything between the products, keeps of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.areas.conftest import Lab
from anychip_sdk.conformance.inputs import Given, linear, norm, table
from anychip_sdk.conformance.lab import Bench
from anychip_sdk.conformance.levels import SPEED_FLOOR
from anychip_sdk.conformance.marks import check
from anychip_sdk.contract import DType

E, M, LAYERS = 1024, 2048, 3
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
PREFILL = 256


def best(runs: Mapping[str, Callable[[], Any]], times: int = 5) -> dict[str, float]:
    """Seconds of the quickest of some calls of each; the first ones, which may compile, do not count. They take turns,
    so that whatever else the machine does slows all of them alike."""
    for run in runs.values():
        run()
    found = dict.fromkeys(runs, float("inf"))
    for _ in range(times):
        for name, run in runs.items():
            start = perf_counter()
            run()
            found[name] = min(found[name], perf_counter() - start)
    return found


def _random(*shape: int) -> np.ndarray:
    """Cheap to make: the values do not matter, but no zeros and no subnormals. As dense as a checkpoint's weights: a
    kernel may be another for what is not."""
    row = np.random.default_rng(0).standard_normal(shape[-1]).astype(np.float32) * 0.03
    return np.tile(row, (*shape[:-1], 1))


def _stack(w: Any, ops: Any, x: Any) -> Any:
    residual = ops.zeros_like(x)
    for i in range(LAYERS):
        x, residual = ops.add_rms_norm(x, residual, w["norm"], 1e-5)
        x = ops.gated_mlp(x, w[f"gate_up{i}"], w[f"down{i}"], "silu")
    return x


def _bench(lab: Lab, dtype: DType) -> Bench:
    weights: dict[str, Given] = {"x": table(_random(PREFILL, E)), "norm": norm(np.ones(E, np.float32))}
    weights["large"] = linear(_random(E, 3 * M * LAYERS))  # as large as the stack
    weights["wide"] = table(_random(PREFILL, 3 * M * LAYERS))
    for i in range(LAYERS):
        weights |= {f"gate_up{i}": linear(_random(M, E), _random(M, E)), f"down{i}": linear(_random(E, M))}
    return Bench(lab.device, dtype, weights)


def measure(lab: Lab) -> dict[str, float]:
    """The measurements of this device in the dtype it prefers. What the machine was too busy to tell is left out."""
    dtype = lab.device.capabilities.weight_dtypes[0]
    bench = _bench(lab, dtype)
    size = 3 * E * M * LAYERS

    def product(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        return ops.linear(ops.embedding(batch.token_ids, w["wide"]), w["large"]), kv

    def stack(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        return _stack(w, ops, ops.embedding(batch.token_ids, w["x"])), kv

    def nothing(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        return ops.embedding(batch.token_ids, w["x"]), kv

    def runs(rows: int) -> dict[str, Callable[[], Any]]:
        """Only the first row comes back."""
        batch = batches.rows(rows, logit_rows=1)
        bodies = {"nothing": nothing, "product": product, "stack": stack}
        return {name: partial(bench.run, body, batch, E) for name, body in bodies.items()}

    decode, prefill = best(runs(1)), best(runs(PREFILL))
    found = {"step without work, ms": decode["nothing"] * 1e3}
    alone = {rows: took["product"] - took["nothing"] for rows, took in ((1, decode), (PREFILL, prefill))}
    if alone[1] > 0:
        found["read in a product of one row, GB/s"] = size * BYTES[dtype] / alone[1] / 1e9
    if alone[PREFILL] > 0:
        found[f"product of {PREFILL} rows, GFLOP/s"] = 2 * size * PREFILL / alone[PREFILL] / 1e9
    for phase, rows, took in (("decode", 1, decode), ("prefill", PREFILL, prefill)):
        layers = took["stack"] - took["nothing"]
        if alone[rows] > 0 and layers > 0:
            found[f"{phase}, fraction of that"] = alone[rows] / layers
    return found


@check(since="1.0")
def test_how_fast_it_is(lab: Lab) -> None:
    """Reported, never judged."""
    lab.note["speed"] = {name: round(value, 4) for name, value in measure(lab).items()}


@check(since="1.0", level="gold", tier="certify")
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_the_floor(lab: Lab, phase: str) -> None:
    fraction = measure(lab).get(f"{phase}, fraction of that")
    assert fraction is not None, "the machine is too busy to measure; run it alone"
    assert fraction >= SPEED_FLOOR, f"{phase} reaches {fraction:.2f} of the device's own products, Gold {SPEED_FLOOR}"
