"""The kernels in Pallas's model of a TPU, against the numpy kit: NaN in memory nobody wrote, errors for reads out of
bounds, races looked for."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from anychip_sdk.contract import SCALED_KV, AttentionSpec, DeviceInfo, Layer
from anychip_sdk.kits.jax import Ranks
from anychip_sdk.kits.jax.scaled import FORMATS, ScaledPages, cells, scaled
from anychip_tpu.device import TpuDevice
from anychip_tpu.kernels.strict import STRICT
from jax_cases import AttentionCase, draw, in_8_bits, traced, wide, words_of
from numpy_batches import page_tables, ragged

pytestmark = pytest.mark.slow  # interpreted kernels

INFO = DeviceInfo(name="tpu-emulated", description="kernels in the strict interpreter", details={})
DEVICE = TpuDevice(INFO, Ranks.of(jax.devices("cpu")[:1]), STRICT)
LANES = 128
DECODES = [(7, 1), (0, 1), (40, 1), (31, 1), (15, 1), (16, 1)]
PREFILLS = [(0, 5), (12, 20), (0, 37), (33, 3)]


class Case(AttentionCase):
    def __init__(self, steps, spec, **options):
        super().__init__(DEVICE, steps, spec, **{"size": 16, **options})

    def take(self, caches):
        super().take(caches)
        self.kv = tuple(tuple(map(laid_out, group)) for group in self.kv)


def laid_out(pages):
    """As the allocator has them: heads are rows of lanes, and a page's scales repeat along one."""
    missing = -cells(pages).shape[-1] % LANES
    numbers = np.pad(cells(pages), [(0, 0)] * 4 + [(0, missing)])
    if not isinstance(pages, ScaledPages):
        return numbers
    return ScaledPages(numbers, np.tile(pages.scales, LANES // pages.scales.shape[-1])[:, :, :, None])


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["plain", "softcap and window"])
def test_sinks(kind, dtype):
    """Far below every score, among them, and above; once, however many blocks a tile walks over."""
    sinks = [-40, 0.5, 2, 9]
    Case(DECODES[:3] + PREFILLS, SPECS[kind], dtype=dtype, sinks=sinks).check()
    Case([(700, 1), *DECODES], SPECS[kind], dtype=dtype, sinks=sinks, decode=True, pad=(2, 2)).check()


@pytest.mark.parametrize("kept", SCALED_KV)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_8_bits(dtype, kept):
    Case(DECODES[:3] + PREFILLS, SPECS["softcap and window"], dtype=dtype, kept=kept).check()
    Case(DECODES, SPECS["plain"], dtype=dtype, kept=kept, decode=True, pad=(2, 2)).check()


@pytest.mark.parametrize(("kept", "size"), [("int8", 32), ("fp8", 64), ("int8", 128)])
def test_scales_of_several_rows_and_blocks(kept, size):
    """Pages that share a row of scales, and pages that have one each."""
    Case([(700, 1), (1, 1), (530, 3)], spec(window=530), H=2, K=1, size=size, kept=kept).check()


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


def write(steps, *, K=2, size=16, dtype="float32", decode=False, pad=(0, 0), kept=None):
    """-> our arrays and those wanted after a step has written; all held NaN outside of scratch."""
    D, layer = 128, Layer(spec(), 1)
    lengths = [computed + new for computed, new in steps]
    used = sum(-(-n // size) for n in lengths)
    host = ragged(steps, page_tables(lengths, size, 1 + np.random.default_rng(0).permutation(used)), size, *pad)
    key = host.key.__class__(host.key.bucket.__class__(**vars(host.key.bucket) | {"decode": decode}))
    k, v = (draw(sum(n for _, n in steps) + pad[0], K, D, dtype=dtype, seed=i) for i in range(2))
    before = np.full((2, used + 1, K, size, D), np.nan, k.dtype)
    before[:, 0] = 0
    before = before if kept is None else laid_out(in_8_bits(wide(before), kept))

    def run(batch, k, v, keys, values):
        return DEVICE.ops.attention.write(k, v, ((keys, values),), batch, layer)

    got = traced(DEVICE, key, run)(words_of(host), k, v, before, before)[0]
    T = host.counts[0]
    page, offset = np.divmod(host.slot_mapping[0][:T], size)
    wanted = [np.swapaxes(wide(part), 2, 3).copy() for part in (*arrays(before), *arrays(before))]
    for part, new in zip(wanted, (part for x in (k, v) for part in arrays(x[:T], kept)), strict=True):
        part[1, page, offset] = wide(new)
    return [np.swapaxes(wide(part), 2, 3) for pages in got for part in arrays(pages)], wanted


def arrays(x, kept=None):
    """The parts of pages, with scales [layers, pages, K, size, 1]; or of rows [T, K, D] that are to be `kept` so."""
    if kept:
        numbers, scales = jax.jit(scaled, static_argnums=1)(x, FORMATS[kept])
        return [numbers, np.asarray(scales)[..., None]]
    if not isinstance(x, ScaledPages):
        return [x]
    size = x.numbers.shape[3]
    rows = np.asarray(x.scales).reshape(*x.scales.shape[:3], -1, size)
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[:, :, :, :1], rows.shape))
    return [np.asarray(x.numbers), rows[:, :, :, 0, :, None]]


@pytest.mark.parametrize(
    "options",
    [
        {"steps": DECODES + PREFILLS},
        {"steps": DECODES + PREFILLS, "pad": (9, 2), "dtype": "bfloat16"},
        {"steps": DECODES, "decode": True, "pad": (2, 2)},
        {"steps": [(5, 100)], "size": 32, "K": 1},
        {"steps": [(15, 1), (15, 2), (16, 16), (0, 1)]},
        {"steps": DECODES + PREFILLS, "pad": (9, 2), "kept": "int8"},
        {"steps": DECODES, "decode": True, "pad": (2, 2), "dtype": "bfloat16", "kept": "fp8"},
        {"steps": [(5, 100)], "size": 32, "K": 1, "kept": "fp8"},
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
