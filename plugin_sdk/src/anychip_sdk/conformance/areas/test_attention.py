"""Ragged paged attention: prefill and decode over pages, in every shape that a step can have.

In every check the places that nobody may read hold NaN: the ends of pages, pages of nobody, the other layer."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anychip_sdk.conformance.areas.conftest import Lab
from anychip_sdk.conformance.batches import Span
from anychip_sdk.conformance.inputs import norm, rope, vector
from anychip_sdk.conformance.marks import check, full
from anychip_sdk.conformance.pages import Scene, Setting
from anychip_sdk.contract import AttentionSpec, DType, KVDType, NotSupported

PLAIN = AttentionSpec(head_dim=64, scale=64**-0.5)
DECODES: tuple[Span, ...] = ((7, 1), (0, 1), (20, 1), (33, 1))
PREFILLS: tuple[Span, ...] = ((0, 5), (4, 6), (0, 17), (19, 3))
MIXED = DECODES[:2] + PREFILLS[1:3]


def prepared(lab: Lab, dtype: DType, setting: Setting, norms: bool) -> tuple[Scene, dict[str, str]]:
    """A scene with a rope table and norms, and the names of those that `run` is to take."""
    dim = setting.spec.head_dim
    frequencies = (1000.0 ** (-np.arange(0, dim, 2) / dim)).astype(np.float32)
    extra = {"rope": rope(frequencies)}
    fused = {"angles": "rope"}
    if norms:
        extra |= {n: norm(lab.draw.normal(n, dim) + 1) for n in ("q_norm", "k_norm")}
        fused |= {"q_norm": "q_norm", "k_norm": "k_norm"}
    return Scene(lab, dtype, setting, extra), fused


def judge(lab: Lab, dtype: DType, setting: Setting) -> Scene:
    scene = Scene(lab, dtype, setting)
    scene.write_history()
    lab.check(scene.trio, scene.body(), scene.batch(), scene.width)
    return scene


@check(since="1.0", level="bronze")
@pytest.mark.parametrize("spans", [DECODES, PREFILLS, MIXED], ids=["decodes", "prefills", "mixed"])
def test_ragged_batches(lab: Lab, kv_dtype: DType, spans: tuple[Span, ...]) -> None:
    judge(lab, kv_dtype, Setting(spec=PLAIN, spans=spans))


@check(since="1.0")
@pytest.mark.parametrize(
    "heads", [(1, 1), (4, 4), (8, 2), (8, 1), (9, 3), (7, 1), (15, 5), full((14, 2)), full((32, 8))], ids=str
)
def test_grouped_query_heads(lab: Lab, kv_dtype: DType, heads: tuple[int, int]) -> None:
    """Query head h reads KV head h // (H // K) (arXiv:2305.13245), for odd ratios too."""
    judge(lab, kv_dtype, Setting(spec=PLAIN, spans=MIXED, heads=heads))


@check(since="1.0", claim="max_head_dim")
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256, None], ids=lambda d: str(d or "largest"))
def test_head_dims(lab: Lab, kv_dtype: DType, dim: int | None) -> None:
    most = lab.device.capabilities.max_head_dim
    dim = min(most, 1024) if dim is None else dim
    if dim > most:
        pytest.skip(f"max_head_dim is {most}")
    judge(lab, kv_dtype, Setting(spec=AttentionSpec(head_dim=dim, scale=dim**-0.5), spans=MIXED))


@check(since="1.0", claim="page_sizes")
@pytest.mark.parametrize("new", [1, 3], ids=["decode", "prefill"])
def test_lengths_at_page_edges(lab: Lab, kv_dtype: DType, new: int) -> None:
    """One token less than a page, a page, one more; likewise for two pages. In every declared page size."""
    sizes = [s for s in lab.device.capabilities.page_sizes if s <= 256]
    chosen = sizes if lab.thorough else sorted({sizes[0], sizes[len(sizes) // 2], min(sizes[-1], 64)} & set(sizes))
    for size in chosen:
        lengths = sorted({n for n in (size - 1, size, size + 1, 2 * size - 1, 2 * size, 2 * size + 1) if n >= new})
        spans = tuple((n - new, new) for n in lengths)
        scene = Scene(lab, kv_dtype, Setting(spec=PLAIN, spans=spans, page_size=size, heads=(2, 1), name=f"{size} "))
        scene.write_history()
        lab.check(scene.trio, scene.body(), scene.batch(), scene.width, f"page size {size}")


@check(since="1.0")
@pytest.mark.parametrize("spans", [DECODES, PREFILLS, MIXED], ids=["decodes", "prefills", "mixed"])
def test_which_page_holds_what_makes_no_difference(lab: Lab, kv_dtype: DType, spans: tuple[Span, ...]) -> None:
    """Permuting the physical pages is neutral, bit by bit."""
    scene = judge(lab, kv_dtype, Setting(spec=PLAIN, spans=spans, order=None))
    first = scene.on_device()
    for seed in (2, 3):
        scene.reorder(seed)
        scene.write_history()
        assert np.array_equal(scene.on_device(), first), "other physical pages gave other bits"


@check(since="1.0")
@pytest.mark.parametrize("spans", [DECODES, PREFILLS], ids=["decodes", "prefills"])
def test_nan_in_unused_places_does_not_leak(lab: Lab, kv_dtype: DType, spans: tuple[Span, ...]) -> None:
    """Bit by bit the same as over pages that hold zeros where nobody may look."""
    clean = Scene(lab, kv_dtype, Setting(spec=PLAIN, spans=spans, poison=False))
    clean.write_history()
    wanted = clean.on_device()
    poisoned = Scene(lab.again(), kv_dtype, Setting(spec=PLAIN, spans=spans))
    poisoned.write_history()
    got = poisoned.on_device()
    assert np.isfinite(got).all(), "NaN in an unused place leaked into the result"
    assert np.array_equal(got, wanted), "what an unused place holds changed the result"


@check(since="1.0")
def test_a_ragged_batch_is_its_sequences_one_by_one(lab: Lab, kv_dtype: DType) -> None:
    scene = judge(lab, kv_dtype, Setting(spec=PLAIN, spans=MIXED))
    together = scene.on_device()
    parts = []
    for i in range(len(MIXED)):
        parts.append(scene.on_device(scene.batch([i])))
        lab.check(scene.trio, scene.body(), scene.batch([i]), scene.width, f"sequence {i} alone")
    if lab.device.capabilities.batch_invariant:
        assert np.array_equal(np.concatenate(parts), together), (
            "batch_invariant is declared, but a sequence's attention depends on its batch"
        )


@check(since="1.0")
def test_sequences_may_share_pages(lab: Lab, kv_dtype: DType) -> None:
    """Two sequences with one prefix: over the same pages, and over copies of them, bit by bit."""
    size = 16
    scene = Scene(lab, kv_dtype, Setting(spec=PLAIN, spans=((37, 1), (33, 1), (35, 4)), page_size=size))
    scene.ids[1] = np.concatenate([scene.ids[0][: 2 * size], scene.ids[1][2 * size :]])
    scene.ids[2] = np.concatenate([scene.ids[0][: 2 * size], scene.ids[2][2 * size :]])
    scene.write_history()
    apart = scene.on_device()
    scene.tables = [
        scene.tables[0],
        scene.tables[0][:2] + scene.tables[1][2:],
        scene.tables[0][:2] + scene.tables[2][2:],
    ]
    scene.write_history()
    assert np.array_equal(scene.on_device(), apart), "a shared page read differently from a copy of it"
    lab.check(scene.trio, scene.body(), scene.batch(), scene.width)


@check(since="1.0")
def test_steps_of_one_shape_do_not_mix(lab: Lab, kv_dtype: DType) -> None:
    """A second step with the shapes of the first but other pages and lengths: plans and masks are made anew."""
    scene = judge(lab, kv_dtype, Setting(spec=PLAIN, spans=((30, 1), (9, 1), (17, 1), (3, 1))))
    scene.reorder(5)
    scene.write_history()
    lab.check(scene.trio, scene.body(), scene.batch(), scene.width, "other pages")
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        lab.check(scene.trio, scene.body(), scene.batch(order), scene.width, f"sequences {order}")


@check(since="1.0")
@pytest.mark.parametrize("scale", [0.02, 0.4])
def test_the_scale_is_the_spec_s(lab: Lab, kv_dtype: DType, scale: float) -> None:
    """Some models scale by something else than the root of head_dim."""
    judge(lab, kv_dtype, Setting(spec=replace(PLAIN, scale=scale), spans=MIXED))


@check(since="1.0")
@pytest.mark.parametrize("spread", [0.0, 12.0], ids=["equal", "peaked"])
def test_scores_far_and_near(lab: Lab, kv_dtype: DType, spread: float) -> None:
    """All scores equal, and scores of which one outweighs the rest: the softmax is stable."""
    judge(lab, kv_dtype, Setting(spec=PLAIN, spans=MIXED, spread=spread))


@check(since="1.0")
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("norms", [False, True], ids=["rope", "rope and norms"])
def test_prepare_norms_rotates_and_writes(lab: Lab, kv_dtype: DType, dim: int, norms: bool) -> None:
    """q and k are normed per head, then rotated, in this order; v is neither. Earlier tokens went the same way."""
    spec = AttentionSpec(head_dim=dim, scale=dim**-0.5, eps=1e-3)
    scene, fused = prepared(lab, kv_dtype, Setting(spec=spec, spans=MIXED), norms)
    scene.write_history(scene.body(**fused))
    lab.check(scene.trio, scene.body(**fused), scene.batch(), scene.width)


@check(since="1.0", profile="swa")
@pytest.mark.parametrize("spans", [DECODES, MIXED], ids=["decodes", "mixed"])
@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 33, 34, full(20), full(1000)])
def test_windows(lab: Lab, kv_dtype: DType, window: int, spans: tuple[Span, ...]) -> None:
    """A token sees itself and window - 1 before it: at 1, around a page, and around the longest sequence (34)."""
    judge(lab, kv_dtype, Setting(spec=replace(PLAIN, window=window), spans=spans))


@check(since="1.0", profile="swa")
@pytest.mark.parametrize("window", [4, 16, 17])
def test_pages_behind_the_window_may_be_given_up(lab: Lab, kv_dtype: DType, window: int) -> None:
    """Their columns hold 0, and their pages NaN."""
    size, spans = 16, ((50, 1), (34, 1), (40, 3))
    scene = judge(lab, kv_dtype, Setting(spec=replace(PLAIN, window=window), spans=spans, page_size=size))
    wanted = scene.on_device()
    for row, (computed, _) in enumerate(spans):
        behind = max(0, computed - window + 1) // size
        scene.tables[row] = [0] * behind + scene.tables[row][behind:]
    got = scene.on_device()
    assert np.array_equal(got, wanted), "a page that lies behind the window was read"


@check(since="1.0", profile="softcap")
@pytest.mark.parametrize("cap", [0.5, 5.0, 50.0, 1e4])
@pytest.mark.parametrize("spans", [DECODES, MIXED], ids=["decodes", "mixed"])
def test_softcaps(lab: Lab, kv_dtype: DType, cap: float, spans: tuple[Span, ...]) -> None:
    """cap * tanh(scores / cap) before masking: nearly all scores at the cap, some, and none."""
    judge(lab, kv_dtype, Setting(spec=replace(PLAIN, softcap=cap), spans=spans, spread=1.8))


@check(since="1.0", profile="softcap")
@pytest.mark.parametrize("window", [1, 16, 20])
def test_softcap_within_a_window(lab: Lab, kv_dtype: DType, window: int) -> None:
    if not lab.device.capabilities.sliding_window:
        pytest.skip("the device does not declare sliding_window")
    judge(lab, kv_dtype, Setting(spec=replace(PLAIN, softcap=2.0, window=window), spans=MIXED, spread=1.8))


def in_8_bits(kv8: KVDType, spans: tuple[Span, ...], **fields: Any) -> Setting:
    """With vectors whose scales differ, some of them zero."""
    return Setting(**{"spec": PLAIN, "spans": spans, "kept": kv8, "uneven": True, **fields})


def judge_sinks(lab: Lab, dtype: DType, setting: Setting, sinks: np.ndarray) -> None:
    scene = Scene(lab, dtype, setting, {"sinks": vector(sinks)})
    scene.write_history()
    lab.check(scene.trio, scene.body(sinks="sinks"), scene.batch(), scene.width)


@check(since="1.4", profile="sinks")
@pytest.mark.parametrize("heads", [(4, 2), (9, 3), full((8, 8))], ids=str)
@pytest.mark.parametrize("spans", [DECODES, PREFILLS, MIXED], ids=["decodes", "prefills", "mixed"])
def test_sinks(lab: Lab, kv_dtype: DType, spans: tuple[Span, ...], heads: tuple[int, int]) -> None:
    """A sink for each query head: far below every score, among them, and above, where it takes nearly all."""
    sinks = np.resize(np.array([-20, 0.5, 2, 8, -1], np.float32), heads[0])
    judge_sinks(lab, kv_dtype, Setting(spec=PLAIN, spans=spans, heads=heads), sinks)


@check(since="1.4", profile="sinks")
def test_a_sink_counts_once(lab: Lab, kv_dtype: DType) -> None:
    """However many pages, chunks or tiles a sequence is read in."""
    spans = ((1, 1), (15, 1), (16, 1), (299, 1), (0, 40), (130, 3))
    judge_sinks(lab, kv_dtype, Setting(spec=PLAIN, spans=spans, heads=(2, 1)), np.array([5, 2], np.float32))


@check(since="1.4", profile="sinks")
@pytest.mark.parametrize("spans", [DECODES, MIXED], ids=["decodes", "mixed"])
def test_sinks_are_not_scaled_nor_capped_nor_windowed(lab: Lab, kv_dtype: DType, spans: tuple[Span, ...]) -> None:
    claims = lab.device.capabilities
    kind = AttentionSpec(
        head_dim=64, scale=0.3, window=17 if claims.sliding_window else None, softcap=2.0 if claims.softcap else None
    )
    judge_sinks(lab, kv_dtype, Setting(spec=kind, spans=spans), np.array([3, -2, 0, 1], np.float32))


@check(since="1.4", level="bronze")
def test_undeclared_sinks_are_refused_or_right(lab: Lab, kv_dtype: DType) -> None:
    """A platform may take them over from a kit that learnt them later."""
    if lab.device.capabilities.sinks:
        pytest.skip("the device declares sinks")
    with suppress(NotSupported):
        judge_sinks(lab, kv_dtype, Setting(spec=PLAIN, spans=MIXED), np.array([3, -2, 0, 1], np.float32))


@check(since="1.2", profile="kv8")
@pytest.mark.parametrize("spans", [DECODES, PREFILLS, MIXED], ids=["decodes", "prefills", "mixed"])
def test_kv_in_8_bits(lab: Lab, dtype: DType, kv8: KVDType, spans: tuple[Span, ...]) -> None:
    """With activations in every dtype. NaN in unused places, scales too, does not leak."""
    judge(lab, dtype, in_8_bits(kv8, spans))


@check(since="1.2", profile="kv8")
@pytest.mark.parametrize("heads", [(8, 2), (9, 3), (7, 1)], ids=str)
def test_grouped_query_heads_over_8_bits(lab: Lab, kv8: KVDType, heads: tuple[int, int]) -> None:
    judge(lab, _first(lab), in_8_bits(kv8, MIXED, heads=heads))


@check(since="1.2", profile="kv8")
@pytest.mark.parametrize("dim", [80, 128, 256])
def test_head_dims_in_8_bits(lab: Lab, kv8: KVDType, dim: int) -> None:
    most = lab.device.capabilities.max_head_dim
    if dim > most:
        pytest.skip(f"max_head_dim is {most}")
    judge(lab, _first(lab), in_8_bits(kv8, MIXED, spec=AttentionSpec(head_dim=dim, scale=dim**-0.5)))


@check(since="1.2", profile="kv8")
@pytest.mark.parametrize("new", [1, 3], ids=["decode", "prefill"])
def test_page_edges_in_8_bits(lab: Lab, kv8: KVDType, new: int) -> None:
    sizes = [s for s in lab.device.capabilities.page_sizes if s <= 256]
    for size in sorted({sizes[0], sizes[len(sizes) // 2]}):
        lengths = sorted({n for n in (size - 1, size, size + 1, 2 * size, 2 * size + 1) if n >= new})
        setting = in_8_bits(kv8, tuple((n - new, new) for n in lengths), page_size=size, name=f"{size} ")
        judge(lab, _first(lab), setting)


@check(since="1.2", profile="kv8")
def test_which_page_holds_what_makes_no_difference_in_8_bits(lab: Lab, kv8: KVDType) -> None:
    """Permuting the physical pages is neutral, bit by bit: scales lie beside their pages."""
    scene = judge(lab, _first(lab), in_8_bits(kv8, MIXED, order=None))
    first = scene.on_device()
    scene.reorder(2)
    scene.write_history()
    assert np.array_equal(scene.on_device(), first), "other physical pages gave other bits"


@check(since="1.2", profile="kv8")
@pytest.mark.parametrize("norms", [False, True], ids=["rope", "rope and norms"])
def test_prepare_writes_8_bits(lab: Lab, dtype: DType, kv8: KVDType, norms: bool) -> None:
    scene, fused = prepared(lab, dtype, in_8_bits(kv8, MIXED), norms)
    scene.write_history(scene.body(**fused))
    lab.check(scene.trio, scene.body(**fused), scene.batch(), scene.width)


@check(since="1.2", profile="kv8")
@pytest.mark.parametrize("spans", [DECODES, MIXED], ids=["decodes", "mixed"])
def test_windows_and_softcaps_over_8_bits(lab: Lab, kv8: KVDType, spans: tuple[Span, ...]) -> None:
    claims = lab.device.capabilities
    kind = replace(PLAIN, window=17 if claims.sliding_window else None, softcap=5.0 if claims.softcap else None)
    judge(lab, _first(lab), in_8_bits(kv8, spans, spec=kind))


def _first(lab: Lab) -> DType:
    return lab.device.capabilities.weight_dtypes[0]


@check(since="1.0", level="bronze")
def test_undeclared_attention_is_refused(lab: Lab) -> None:
    """`Attention.supports` raises NotSupported for what the capabilities do not claim, and for nothing else."""
    claims, supports = lab.device.capabilities, lab.device.ops.attention.supports
    supports(PLAIN)
    wide = claims.max_head_dim * 2
    kinds = {
        "sliding_window": (replace(PLAIN, window=8), claims.sliding_window),
        "softcap": (replace(PLAIN, softcap=10.0), claims.softcap),
        f"head_dim {wide}": (replace(PLAIN, head_dim=wide), False),
    }
    for name, (spec, declared) in kinds.items():
        if declared:
            supports(spec)
        else:
            try:
                supports(spec)
            except NotSupported:
                continue
            pytest.fail(f"{name} is not declared, but Attention.supports does not raise NotSupported for it")
