"""The strict emulation: what Pallas's model of a TPU finds fails the step, and no other."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anychip_sdk.contract import DeviceError, DeviceInfo, Sampled
from anychip_sdk.kits.jax import Ranks
from anychip_sdk.kits.jax.ranks import AXIS
from anychip_tpu.device import TpuDevice
from anychip_tpu.kernels.interpreters import EMULATIONS, call
from anychip_tpu.kernels.races import RaceError, Races
from jax._src.pallas.mosaic.interpret.race_detection_state import RaceDetectionState
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jax_cases import words_of
from numpy_batches import ragged

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


X = np.arange(2 * 8 * 128, dtype=np.float32).reshape(2, 8, 128)


@pytest.fixture
def step():
    """step(kind, row) -> what a step of a device gives that copies row `row` of X, as numpy."""
    info = DeviceInfo(name="tpu-emulated", description="kernels in the strict interpreter", details={})
    device = TpuDevice(info, Ranks.of(jax.devices("cpu")[:1]), STRICT)
    host = ragged([(0, 1)], [[1]], 16)

    def run(kind, row):
        def body(weights, kv, state, batch):
            return Sampled(batch.token_ids, top_logprobs=call(copied, STRICT, weights, kv, kind=kind)), kv, state

        pending, _, _ = device.compile(body, host.key)(
            jnp.asarray(X), jnp.full(1, row, jnp.int32), device.state(2), words_of(host)
        )
        return pending.get().top_logprobs

    yield run
    device.close()


def test_a_sound_kernel(step):
    np.testing.assert_array_equal(step("sound", 1), X[1])


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            "racing",
            0,
            r"race in vmem buffer \d+ of chip 0: the write of \[...\] by DMA 0 at .* the read of .* by the core",
        ),
        ("sound", 2, r"IndexError: Out-of-bounds read of .* buffer has shape \(2, 8, 128\)"),
    ],
)
def test_what_fails_a_step_and_not_the_next(step, kind, row, message):
    for _ in range(2):
        with pytest.raises(DeviceError, match=f"^the step failed: copied on the emulated TPU: .*{message}"):
            step(kind, row)
        np.testing.assert_array_equal(step("sound", 0), X[0])


def test_two_chips():
    code = (
        "from anychip_tpu.platform import EmulatedPlatform\n"
        "EmulatedPlatform().open(1).close()\n"
        "from test_tpu_strict import check_two_chips\n"
        "check_two_chips()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_two_chips():
    """As one: what fails on them fails the step, and not the next."""
    ranks = Ranks.of(jax.devices("cpu")[:2])
    assert ranks.size == 2
    split = PartitionSpec(None, None, AXIS)

    def run(kind, row):
        mine = partial(call, copied, STRICT, kind=kind)
        both = jax.shard_map(
            mine,
            mesh=ranks.mesh,
            in_specs=(split, PartitionSpec()),
            out_specs=PartitionSpec(None, AXIS),
            check_vma=False,
        )
        return np.asarray(jax.jit(both)(np.concatenate([X, -X], 2), np.full(1, row, np.int32)))

    for kind, row in (("racing", 0), ("sound", 2)):
        with pytest.raises(jax.errors.JaxRuntimeError):
            run(kind, row)
        np.testing.assert_array_equal(run("sound", 1), np.concatenate([X[1], -X[1]], 1))


def test_memory_that_nobody_wrote_is_nan(step):
    assert np.isnan(step("unwritten", 0)).all()


def accesses(seed):
    """Of two buffers, by vector clocks of which some are ordered: ("check_read" or "check_write", clock, buffer,
    range)."""
    rng = np.random.default_rng(seed)
    clock = rng.integers(0, 2, 3).astype(np.int32)
    for _ in range(60):
        clock = clock + (rng.random(3) < 0.5)
        late = rng.random(3) < 0.01
        parts = []
        for size in (4, 6)[: rng.integers(0, 3)]:
            start = int(rng.integers(0, size))
            parts.append(start if rng.random() < 0.3 else slice(start, int(rng.integers(start, size)) + 1, 1))
        kind = ("check_read", "check_write")[rng.integers(0, 2)]
        yield (
            kind,
            np.where(late, clock - 3, clock).astype(np.int32),
            ("vmem", int(rng.integers(0, 2)), 0, 0),
            tuple(parts),
        )


def test_verdicts_are_jax_s():
    """Of every access up to the first race."""
    endings = set()
    for seed in range(200):
        theirs, ours, raced = RaceDetectionState(num_cores=1), Races(num_cores=1), False
        for kind, clock, buffer, where in accesses(seed):
            getattr(theirs, kind)(0, 0, clock, buffer, where)
            try:
                getattr(ours, kind)(0, 0, clock, buffer, where)
            except RaceError:
                raced = True
            assert raced == theirs.races_found
            if raced:
                break
        endings.add(raced)
    assert endings == {False, True}
