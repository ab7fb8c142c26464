"""The kernels in Pallas's model of a TPU, against the numpy kit: NaN in memory nobody wrote, errors for reads out of
bounds, races looked for."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
import pytest
from anychip_sdk.contract import AttentionSpec, DeviceInfo, Layer
from anychip_sdk.kits.jax import Ranks
from anychip_tpu.device import TpuDevice
from anychip_tpu.kernels.interpreters import STRICT
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax._src.pallas.mosaic.interpret.race_detection_state import RaceDetectionState
from jax.experimental.pallas import tpu as pltpu
from jax_cases import AttentionCase, draw, traced, wide, words_of
from numpy_batches import page_tables, ragged

pytestmark = pytest.mark.slow  # compiled or interpreted kernels

INFO = DeviceInfo(name="tpu-emulated", description="kernels in the strict interpreter", details={})
DEVICE = TpuDevice(INFO, Ranks.of(jax.devices("cpu")[:1]), STRICT)
LANES = 128
DECODES = [(7, 1), (0, 1), (40, 1), (31, 1), (15, 1), (16, 1)]
PREFILLS = [(0, 5), (12, 20), (0, 37), (33, 3)]


@pytest.fixture(autouse=True)
def no_races(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """JAX makes a new record for every kernel that runs."""
    records: list[RaceDetectionState] = []

    def record(**options: int) -> RaceDetectionState:
        records.append(RaceDetectionState(**options))
        return records[-1]

    monkeypatch.setattr(interpret_pallas_call, "RaceDetectionState", record)
    yield
    pltpu.reset_tpu_interpret_mode_state()
    assert records
    assert not any(r.races_found for r in records)


class Case(AttentionCase):
    def __init__(self, steps, spec, **options):
        super().__init__(DEVICE, steps, spec, **{"size": 16, **options})

    def take(self, caches):
        super().take(caches)
        missing = -caches[0].shape[-1] % LANES
        self.kv = tuple(tuple(np.pad(c, [(0, 0)] * 4 + [(0, missing)]) for c in group) for group in self.kv)


def spec(head_dim=128, **options):
    return AttentionSpec(head_dim=head_dim, scale=head_dim**-0.5, **options)


SPECS = {
    "plain": spec(),
    "window 1": spec(window=1),
    "window 20": spec(window=20),
    "softcap and window": spec(softcap=1.5, window=17),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["plain", "softcap and window"])
def test_ragged_batches(kind, dtype):
    Case(DECODES[:3] + PREFILLS, SPECS[kind], dtype=dtype).check()


@pytest.mark.parametrize("kind", SPECS)
def test_decodes_alone_with_padding(kind):
    case = Case(DECODES, SPECS[kind], decode=True, pad=(2, 2))
    case.q[len(DECODES) :] = np.nan
    assert not case.check()[len(DECODES) :].any()


@pytest.mark.parametrize(("head_dim", "heads"), [(64, (4, 1)), (80, (3, 3)), (256, (14, 2))], ids=str)
def test_heads(head_dim, heads):
    Case(DECODES[:2] + PREFILLS[:2], spec(head_dim), H=heads[0], K=heads[1]).check()


@pytest.mark.parametrize("size", [32, 128])
def test_page_sizes(size):
    Case(DECODES + PREFILLS, spec(window=30), size=size).check()


def test_contexts_of_several_blocks():
    steps = [(700, 1), (1, 1), (530, 3)]
    Case(steps, spec(), H=2, K=1).check()
    Case(steps, spec(window=530), H=2, K=1).check()


def write(steps, *, K=2, size=16, dtype="float32", decode=False, pad=(0, 0)):
    """-> our pages and the oracle's after a step has written; both held NaN outside of scratch."""
    D, layer = 128, Layer(spec(), 1)
    lengths = [computed + new for computed, new in steps]
    used = sum(-(-n // size) for n in lengths)
    host = ragged(steps, page_tables(lengths, size, 1 + np.random.default_rng(0).permutation(used)), size, *pad)
    key = host.key.__class__(host.key.bucket.__class__(**vars(host.key.bucket) | {"decode": decode}))
    k, v = (draw(sum(n for _, n in steps) + pad[0], K, D, dtype=dtype, seed=i) for i in range(2))
    before = np.full((2, used + 1, K, size, D), np.nan, k.dtype)
    before[:, 0] = 0

    def run(batch, k, v, keys, values):
        return DEVICE.ops.attention.write(k, v, ((keys, values),), batch, layer)

    got = traced(DEVICE, key, run)(words_of(host), k, v, before, before)[0]
    oracle = [np.swapaxes(wide(before), 2, 3).copy() for _ in range(2)]
    T = host.counts[0]
    for cache, new in zip(oracle, (k, v), strict=True):
        page, offset = np.divmod(host.slot_mapping[0][:T], size)
        cache[1, page, offset] = wide(new[:T])
    return [wide(np.swapaxes(np.asarray(c), 2, 3)) for c in got], oracle


@pytest.mark.parametrize(
    "options",
    [
        {"steps": DECODES + PREFILLS},
        {"steps": DECODES + PREFILLS, "pad": (9, 2), "dtype": "bfloat16"},
        {"steps": DECODES, "decode": True, "pad": (2, 2)},
        {"steps": [(5, 100)], "size": 32, "K": 1},
        {"steps": [(15, 1), (15, 2), (16, 16), (0, 1)]},
    ],
    ids=str,
)
def test_every_token_is_written_and_nothing_else(options):
    got, wanted = write(**options)
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_empty_batch_touches_nothing():
    """What a device that warms up runs: every word is zero."""
    case = Case([(3, 1)], spec())

    def run(batch, q, k, v, kv):
        return DEVICE.ops.attention.run(q, k, v, kv, batch, case.layer)

    arrays = [np.ones((1, n * 128), np.float32) for n in (4, 2, 2)]
    out, kv = traced(DEVICE, case.key, run)(np.zeros_like(words_of(case.host)), *arrays, case.kv)
    assert not np.asarray(out).any()
    for now, then in zip(kv[0], case.kv[0], strict=True):
        np.testing.assert_array_equal(np.asarray(now), np.asarray(then))  # NaN equals NaN here
