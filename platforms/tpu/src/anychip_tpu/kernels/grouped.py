"""Products of rows that are sorted by group, each with its group's weight, which is read where it lies in a stack of
layers: XLA's own ragged product would first copy the layer's weights out of the stack, and turn them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from anychip_sdk.kits.jax.math import precision
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from anychip_tpu.kernels.interpreters import Interpret, call

ROWS = 128
"""Rows of a tile. A group's rows begin with a tile, so a tile has one weight."""
WEIGHT_BYTES = 2**23
"""Of a block of a weight in VMEM, where there are two: the more outputs a block has, the less often rows are read."""


def grouped(x: Array, w: Array, layer: Any, sizes: Array, interpret: Interpret = False) -> Array:
    """x: [N, I], rows of group 0, then of group 1, ...; sizes: [X] rows of each, multiples of ROWS as N is; w:
    [layers, X, O, I]; `layer`: int or traced scalar -> [N, O], x's dtype. Rows beyond the last group are arbitrary.

    Tiles of rows are the inner loop, so a block of a weight is read once (MegaBlocks, arXiv:2211.15841)."""
    out: Array = call(_grouped, interpret, x, w, layer, sizes)
    return out


def _grouped(x: Array, w: Array, layer: Any, sizes: Array, interpret: Interpret) -> Any:
    (N, I), O = x.shape, w.shape[2]  # noqa: E741
    outputs = _outputs(O, I * w.dtype.itemsize)
    ends = jnp.cumsum(sizes) // ROWS  # [X]
    used = ends[-1:]
    tile = jnp.minimum(jnp.arange(N // ROWS), jnp.maximum(used - 1, 0))  # those beyond stay with the last weight
    group = jnp.minimum(jnp.searchsorted(ends, tile, side="right"), len(sizes) - 1)
    scalars = (jnp.asarray(layer, jnp.int32).reshape(1), group.astype(jnp.int32), used.astype(jnp.int32))
    return pl.pallas_call(
        _kernel,
        out_shape=jax.ShapeDtypeStruct((N, O), x.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(O // outputs, N // ROWS),
            in_specs=[
                pl.BlockSpec((ROWS, I), lambda o, n, *_: (n, 0)),
                pl.BlockSpec((1, 1, outputs, I), lambda o, n, layer, group, _: (layer[0], group[n], o, 0)),
            ],
            out_specs=pl.BlockSpec((ROWS, outputs), lambda o, n, *_: (n, o)),
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=2**26),
        interpret=interpret,
        name="grouped_product",
    )(*scalars, x, w)


def _outputs(outputs: int, row: int) -> int:
    """Outputs of a block: whole lanes that divide all of them, as many as WEIGHT_BYTES hold. row: bytes of one."""
    fitting = (n for n in range(128, outputs + 1, 128) if outputs % n == 0 and n * row <= WEIGHT_BYTES)
    return max(fitting, default=outputs)


def _kernel(layer: Any, group: Any, used: Any, x: Any, w: Any, out: Any) -> None:
    @pl.when(pl.program_id(1) < used[0])
    def _() -> None:
        sides = (((1,), (1,)), ((), ()))
        y = lax.dot_general(x[...], w[0, 0], sides, precision=precision(x), preferred_element_type=jnp.float32)
        out[...] = y.astype(out.dtype)
