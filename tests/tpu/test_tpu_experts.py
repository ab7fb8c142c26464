"""The grouped product of experts in Pallas's model of a TPU, against numpy and the numpy kit."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anychip_sdk.contract import Bucket, DeviceInfo, MoESpec, StepKey, WeightSpec
from anychip_sdk.kits.jax import Ranks
from anychip_tpu.device import TpuDevice
from anychip_tpu.kernels.grouped import ROWS, grouped
from anychip_tpu.kernels.strict import STRICT
from jax_cases import ORACLE, both, close, draw, traced, wide, words_of
from numpy_batches import empty_batch

pytestmark = pytest.mark.slow  # interpreted kernels

INFO = DeviceInfo(name="tpu-emulated", description="kernels in the strict interpreter", details={})
DEVICE = TpuDevice(INFO, Ranks.of(jax.devices("cpu")[:1]), STRICT)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tiles", [(1, 2, 0, 1), (0, 0, 3, 0), (0, 0, 0, 0)], ids=str)
def test_rows_meet_the_weight_of_their_group(tiles, dtype):
    """Groups of no rows, and a tile behind the last group, whose result nobody looks at."""
    x, w = draw(5 * ROWS, 96, dtype=dtype), draw(2, len(tiles), 256, 96, dtype=dtype)
    sizes = jnp.array(tiles, jnp.int32) * ROWS
    run = jax.jit(lambda x, w, layer: grouped(x, w, layer, sizes, STRICT))
    used = sum(tiles) * ROWS
    got = run(x, w, 1)[:used]
    owner = np.repeat(np.arange(len(tiles)), np.array(tiles) * ROWS)
    close(got, np.einsum("ni,noi->no", wide(x[:used]), wide(w)[1][owner]), dtype, terms=8 * 96)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_of_many_rows(dtype, monkeypatch):
    """More tokens than one tile, and experts that nobody chooses."""
    X, M, E, T = 5, 64, 128, 200  # experts, width of each, hidden, tokens
    monkeypatch.setattr(DEVICE.ops, "_dense_rows", 100)
    names = {n: tuple(f"{e}.{n}" for e in range(X)) for n in ("gate", "up", "down")}
    tensors = {f"{e}.{n}": draw(M, E, seed=3 * e + i) / 12 for e in range(X) for i, n in enumerate(("gate", "up"))}
    tensors |= {f"{e}.down": draw(E, M, seed=e) / 12 for e in range(X)} | {"router": draw(X, E)}
    tensors["router"][3] = 0
    specs = (
        WeightSpec((("router",),), "linear"),
        WeightSpec((names["gate"], names["up"]), "experts", tp="out"),
        WeightSpec((names["down"],), "experts", tp="in"),
    )
    handles = [both(DEVICE, spec, tensors, dtype) for spec in specs]
    spec = MoESpec(experts=X, top_k=2, renormalize=True, activation="silu")
    host = empty_batch(StepKey(Bucket(T + 2, 1, 1, 1, False)))
    host.counts[0] = T
    x = draw(T + 2, E, dtype=dtype)
    x[T:] = np.nan  # padding
    router, *experts = (h for h, _ in handles)
    stacks = [replace(h, array=jnp.stack([h.array + 1, h.array])) for h in experts]

    def moe(batch, x, place):
        return DEVICE.ops.moe(x, router, *(replace(h, place=place) for h in stacks), spec, batch)

    got = np.asarray(traced(DEVICE, host.key, moe)(words_of(host), x, 1))
    wanted = ORACLE.ops.moe(wide(x), *(h for _, h in handles), spec, host)
    close(got[:T], wanted[:T], dtype, terms=8 * E)
    assert not got[T:].any()
