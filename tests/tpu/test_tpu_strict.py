"""The strict emulation: what Pallas's model of a TPU finds fails the step, and no other."""

from __future__ import annotations


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anychip_tpu.kernels.interpreters import EMULATIONS, call
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

STRICT = EMULATIONS["strict"]


def copied(x, at, *, kind, interpret):
    """x: [2, 8, 128] in HBM; row at[0] of it comes to VMEM by DMA -> it."""

    def kernel(at, x, out, room, arrived):
        copy = pltpu.make_async_copy(x.at[at[0]], room, arrived)
        if kind != "unwritten":
            copy.start()
        if kind == "racing":
            out[...] = room[...]
        if kind != "unwritten":
            copy.wait()
        if kind != "racing":
            out[...] = room[...]

    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            in_specs=[pl.BlockSpec(memory_space=pltpu.HBM)],
            out_specs=pl.BlockSpec(x.shape[1:], lambda at: (0, 0)),
            scratch_shapes=[pltpu.VMEM(x.shape[1:], x.dtype), pltpu.SemaphoreType.DMA],
        ),
        interpret=interpret,
    )(at, x)


@pytest.fixture
def step():
    """step(kind, row) -> what a compiled step gives, as numpy, and what it should be."""
    x = np.arange(2 * 8 * 128, dtype=np.float32).reshape(2, 8, 128)

    def run(kind, row):
        program = jax.jit(lambda x, at: call(copied, STRICT, x, at, kind=kind) + 1)
        return np.asarray(program(x, jnp.full(1, row, jnp.int32))), x[min(row, 1)] + 1

    return run


def test_a_sound_kernel(step):
    got, wanted = step("sound", 1)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            "racing",
            0,
            r"race in vmem buffer \d+ of chip 0: the write of \[...\] by DMA 0 .* the read of \[.*\] by the core",
        ),
        ("sound", 2, r"IndexError: Out-of-bounds read of .* buffer has shape \(2, 8, 128\)"),
    ],
)
def test_what_fails_a_step_and_not_the_next(step, kind, row, message):
    for _ in range(2):
        with pytest.raises(jax.errors.JaxRuntimeError, match=message):
            step(kind, row)
        np.testing.assert_array_equal(*step("sound", 0))


def test_memory_that_nobody_wrote_is_nan(step):
    assert np.isnan(step("unwritten", 0)[0]).all()
