"""Weight handles, and the way from a checkpoint's arrays to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from anychip_sdk.contract import DType, KVDType, Reader, WeightSpec
from anychip_sdk.kits.jax.ranks import Ranks
from anychip_sdk.kits.weights import check, read_bias, read_parts

LOG = logging.getLogger(__name__)
Shapes = Mapping[str, tuple[int, ...]]

JAX_DTYPES: Mapping[KVDType, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(jnp.bfloat16),
    "float16": np.dtype(np.float16),
}


@partial(jax.tree_util.register_dataclass, data_fields=["array", "bias", "place"], meta_fields=["sizes", "tp"])
@dataclass(frozen=True)
class Weight:
    """linear [O, I], embedding [V, E], experts [X, O, I], norm and vector and rope [N] (float32). `sizes`: outputs of
    each part. `bias`: [O], or None. `tp`: what is split among ranks; with "out" each rank's part of every part of the
    weight stands together, so that a rank finds its outputs side by side. `place`: where `array` is a stack of layers,
    [layers, X, O, I], the layer that is meant."""

    array: Array
    bias: Array | None = None
    sizes: tuple[int, ...] = field(default=())
    tp: Literal["out", "in"] | None = None
    place: Array | None = None

    @property
    def own(self) -> Array:
        """The array of this layer alone."""
        return self.array if self.place is None else lax.dynamic_index_in_dim(self.array, self.place, keepdims=False)

    @property
    def stack(self) -> tuple[Array, Array | int]:
        """A stack of layers, and the place in it."""
        return (self.array[None], 0) if self.place is None else (self.array, self.place)


def describe(spec: WeightSpec, shapes: Shapes, dtype: DType, ranks: Ranks) -> Weight:
    """The handle that `pack` makes, with `ShapeDtypeStruct` for arrays. Raises ContractError where a tensor is missing
    or shapes make no weight."""
    if spec.const is not None:
        return Weight(_struct(spec.const.shape, np.float32, ranks.whole))
    check(spec, shapes)
    kind = np.dtype(np.float32) if spec.kind in ("norm", "vector", "rope") else JAX_DTYPES[dtype]
    first = shapes[spec.parts[0][0]]
    sizes = tuple(shapes[part[0]][0] for part in spec.parts)
    count = len(spec.parts[0])
    stack = (count,) if count > 1 or spec.kind == "experts" else ()
    shape = (*stack, sum(sizes), *first[1:])
    tp = _split(spec, shapes, ranks)
    sharding = ranks.whole if tp is None else ranks.split(len(stack) if tp == "out" else len(shape) - 1)
    bias_sharding = ranks.split(0) if tp == "out" else ranks.whole
    bias = _struct((sum(sizes),), kind, bias_sharding) if spec.bias else None
    return Weight(_struct(shape, kind, sharding), bias, sizes, tp)


def _split(spec: WeightSpec, shapes: Shapes, ranks: Ranks) -> Literal["out", "in"] | None:
    """What is split among ranks: nothing where they do not divide it."""
    if spec.tp is None or ranks.size == 1:
        return None
    for part in spec.parts:
        length = shapes[part[0]][0 if spec.tp == "out" else 1]
        if length % ranks.size:
            LOG.warning("%s: %d chips do not divide %d; each has all of it", part[0], ranks.size, length)
            return None
    return spec.tp


def _struct(shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def pack(spec: WeightSpec, read: Reader, shapes: Shapes, dtype: DType, ranks: Ranks) -> Weight:
    """See `Device.pack`. Norms, rope and vectors stay float32: they are small, and their ops compute in it. Raises as
    `describe`."""
    wanted = describe(spec, shapes, dtype, ranks)
    if spec.const is not None:
        return Weight(ranks.make(wanted.array, lambda *_: np.array(spec.const, np.float32)))
    spec = replace(spec, tp=wanted.tp)

    def part(rank: int, size: int) -> np.ndarray:
        return _joined(spec, list(read_parts(spec, read, shapes, rank, size)), wanted.array.dtype)

    def bias(rank: int, size: int) -> np.ndarray:
        return np.concatenate(
            [np.asarray(b).astype(wanted.array.dtype) for b in read_bias(spec, read, shapes, rank, size)]
        )

    made = None if wanted.bias is None else ranks.make(wanted.bias, bias)
    return replace(wanted, array=ranks.make(wanted.array, part), bias=made)


def _joined(spec: WeightSpec, parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """One new array, whatever the parts are views of: a checkpoint's pages go away when it is closed."""
    axis = -2 if parts[0].ndim > 1 else 0
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    whole = np.empty(shape, dtype)
    np.concatenate(parts, axis=axis, out=whole, casting="unsafe")
    if spec.offset:
        whole += dtype.type(spec.offset)
    return whole
