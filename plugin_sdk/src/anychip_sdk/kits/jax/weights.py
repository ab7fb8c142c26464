"""Weight handles, and the way from a checkpoint's arrays to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from anychip_sdk.contract import DType, Reader, WeightSpec
from anychip_sdk.kits.weights import check, read_bias, read_parts

Shapes = Mapping[str, tuple[int, ...]]

JAX_DTYPES: Mapping[DType, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(jnp.bfloat16),
    "float16": np.dtype(np.float16),
}


@partial(jax.tree_util.register_dataclass, data_fields=["array", "bias"], meta_fields=["sizes"])
@dataclass(frozen=True)
class Weight:
    """linear [O, I], embedding [V, E], experts [X, O, I], norm and vector and rope [N] (float32). `sizes`: outputs of
    each part. `bias`: [O], or None."""

    array: Array
    bias: Array | None = None
    sizes: tuple[int, ...] = field(default=())


def to_jax(array: np.ndarray, device: jax.Device) -> Array:
    """The array must be nobody else's: on the host JAX keeps it as it is."""
    return jax.device_put(array, device)


def pack(spec: WeightSpec, read: Reader, shapes: Shapes, dtype: DType, device: jax.Device) -> Weight:
    """See `Device.pack`. Norms, rope and vectors stay float32: they are small, and their ops compute in it.

    Raises ContractError where a tensor is missing, or where shapes make no weight."""
    if spec.const is not None:
        return Weight(to_jax(np.array(spec.const, np.float32), device))
    kind = np.dtype(np.float32) if spec.kind in ("norm", "vector", "rope") else JAX_DTYPES[dtype]
    check(spec, shapes)
    parts = [np.asarray(part) for part in read_parts(spec, read, shapes)]
    axis = -2 if parts[0].ndim > 1 else 0
    # One new array, whatever the parts are views of: a checkpoint's pages go away when it is closed.
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    whole = np.empty(shape, kind)
    np.concatenate(parts, axis=axis, out=whole, casting="unsafe")
    if spec.offset:
        whole += kind.type(spec.offset)
    sizes = tuple(part.shape[axis] for part in parts)
    biases = [np.asarray(b).astype(kind) for b in read_bias(spec, read, shapes)]
    bias = to_jax(np.concatenate(biases), device) if biases else None
    return Weight(to_jax(whole, device), bias, sizes)
