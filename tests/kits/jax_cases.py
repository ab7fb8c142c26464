"""The same handles, pages and batches for the JAX kit and for the numpy kit, its oracle."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from anychip_sdk.contract import SCALED_KV, Batch, Capabilities, DeviceInfo, Layer, Reader, StepKey, WeightSpec, view
from anychip_sdk.kits.jax import Buckets, JaxDevice, Ranks
from anychip_sdk.kits.jax.scaled import FORMATS, ScaledPages, largest
from anychip_sdk.kits.numpy.platform import NumpyPlatform
from numpy_batches import page_tables, ragged

ORACLE = NumpyPlatform().open()
DTYPES = ("float32", "bfloat16", "float16")
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
"""One unit in the last place, relative."""
HOST = jax.devices("cpu")[0]


def kit_device(buckets: Buckets | None = None) -> JaxDevice:
    kept = (*DTYPES, *SCALED_KV)
    claims = Capabilities(weight_dtypes=DTYPES, kv_dtypes=kept, sliding_window=True, softcap=True, moe=True)
    return JaxDevice(DeviceInfo(name="jax", description="the kit alone", details={}), claims, Ranks.of([HOST]), buckets)


def draw(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """On the host: JAX compiles even the drawing of numbers, once for each shape."""
    rng = np.random.default_rng(seed + 1000 * sum(shape))
    return rng.standard_normal(shape, np.float32).astype(jnp.dtype(dtype))


def wide(x: Any) -> np.ndarray:
    """Any array as float64."""
    return np.asarray(x).astype(np.float64)


def reader(tensors: dict[str, Any]) -> tuple[Reader, dict[str, tuple[int, ...]]]:
    arrays = {name: np.asarray(t) for name, t in tensors.items()}
    return (lambda name, index=(): arrays[name][index]), {name: a.shape for name, a in arrays.items()}


def both(device: JaxDevice, spec: WeightSpec, tensors: dict[str, Any], dtype: str) -> tuple[Any, Any]:
    """The handle of the device in `dtype`, and the oracle's in float64, of the same values."""
    read, shapes = reader({name: np.asarray(t).astype(jnp.dtype(dtype)) for name, t in tensors.items()})
    return device.pack(spec, read, shapes, dtype), ORACLE.pack(spec, read, shapes, "float64")


def close(got: Any, wanted: np.ndarray, dtype: str, terms: int) -> None:
    """Within the rounding of `terms` additions in float32 (products accumulate in it) and of a few values in `dtype`.
    The scale is the largest value, as a sum's rounding follows its largest terms."""
    assert got.dtype == jnp.dtype(dtype)
    assert got.shape == wanted.shape
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    budget = scale * (4 * EPSILON[dtype] + terms * EPSILON["float32"])
    assert np.abs(wide(got) - wanted).max(initial=0.0) <= budget


def words_of(host: Batch) -> np.ndarray:
    """The buffer that the host's batch is a view of."""
    return np.concatenate([array.ravel() for name, array in vars(host).items() if name not in ("key", "plan")])


def traced(device: JaxDevice, key: StepKey, call: Any) -> Any:
    """call(batch, *arrays) as a step makes it, compiled: the batch is uploaded and begun."""

    def run(buffer: jax.Array, *arrays: Any) -> Any:
        return call(device.ops.attention.begin(view(buffer, key)), *arrays)

    return jax.jit(run)


def in_8_bits(cache: np.ndarray, kept: str) -> ScaledPages:
    """cache: [.., D] float64, of which each vector gets a scale of its own. NaN becomes NaN, or any whole number."""
    kind = FORMATS[kept]
    scales = (np.abs(cache).max(axis=-1) / largest(kind)).astype(np.float32)
    numbers = cache / np.where(scales == 0, 1, scales)[..., None]
    numbers = np.nan_to_num(np.round(numbers), nan=77) if kept == "int8" else numbers
    return ScaledPages(numbers.astype(kind), scales)


class AttentionCase:
    """steps: (computed, new) of each sequence, decodes first. The caches of both kits hold the same values. pad: tokens
    and sequences of padding. kept: what KV is kept in, if it is 8 bits; vectors then differ in magnitude. sinks: one of
    each query head, or None."""

    def __init__(
        self, device, steps, spec, *, H=4, K=2, Dv=None, size=4, dtype="float32", seed=0, pad=(0, 0), decode=False,
        kept=None, sinks=None,
    ):  # fmt: skip
        self.device, self.dtype, self.kept, self.layer = device, dtype, kept, Layer(spec, 1)
        D, Dv = spec.head_dim, Dv or spec.head_dim
        lengths = [computed + new for computed, new in steps]
        used = sum(-(-n // size) for n in lengths)
        tables = page_tables(lengths, size, 1 + np.random.default_rng(seed).permutation(used))
        self.host = ragged(steps, tables, size, *pad)
        self.key = StepKey(self.host.key.bucket.__class__(**vars(self.host.key.bucket) | {"decode": decode}))
        self.host.counts[3] = sum(1 for _, n in steps if n == 1)
        self.q = draw(sum(n for _, n in steps) + pad[0], H, D, dtype=dtype, seed=seed)
        shape = (used + 2, size, K)
        self.oracle = [tuple(np.full((2, *shape, d), np.nan) for d in (D, Dv))]
        for i, (length, table) in enumerate(zip(lengths, tables, strict=True)):
            for cache, d in zip(self.oracle[0], (D, Dv), strict=True):
                values = wide(draw(length, K, d, dtype=dtype, seed=seed + i + d))
                if kept:
                    values *= np.resize((1, 0.25, 2, 0, 0.5), length)[:, None, None]
                cache[1, np.array(table)[np.arange(length) // size], np.arange(length) % size] = values
        for cache in self.oracle[0]:
            cache[:, 0] = 0
        self.take(self.oracle[0])
        self.sinks = (None, None)
        if sinks is not None:
            self.sinks = both(device, WeightSpec((("sinks",),), "vector"), {"sinks": sinks}, "float32")

    def take(self, caches):
        """Ours are [layers, pages, K, size, D]. In 8 bits the oracle sees what they give back."""
        turned = [np.swapaxes(c, 2, 3) for c in caches]
        if self.kept is None:
            self.kv = (tuple(c.astype(jnp.dtype(self.dtype)) for c in turned),)
            return
        self.kv = (tuple(in_8_bits(c, self.kept) for c in turned),)
        self.oracle = [tuple(np.swapaxes(wide(n) * wide(s)[..., None], 2, 3) for n, s in self.kv[0])]

    def run(self):
        def attend(batch, q, kv):
            return attended(self.device, q, kv, batch, self.layer, self.sinks[0])

        return np.asarray(traced(self.device, self.key, attend)(words_of(self.host), self.q, self.kv))

    def check(self):
        wanted = attended(ORACLE, wide(self.q), self.oracle, self.host, self.layer, self.sinks[1])
        got = self.run()
        # probabilities are rounded to the dtype
        close(got, wanted, self.dtype, terms=200)
        return got


def attended(device: Any, q: Any, kv: Any, batch: Batch, layer: Layer, sinks: Any) -> Any:
    """sinks: a handle, or None."""
    attention = device.ops.attention
    if sinks is None:
        return attention.attend(q, kv, batch, layer)
    return attention.attend_with_sinks(q, kv, batch, layer, sinks)
