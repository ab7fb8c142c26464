"""The allocator: how many pages a budget buys, where they lie, and that they keep what was written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from anychip_sdk.conformance.areas.conftest import Lab
from anychip_sdk.conformance.areas.test_ops import ALL_DTYPES
from anychip_sdk.conformance.lab import layout
from anychip_sdk.conformance.marks import check
from anychip_sdk.conformance.shelf import MAX_PAGE, Shelf, page_size
from anychip_sdk.contract import (
    SCALED_KV,
    Device,
    DType,
    KVDType,
    KVLayout,
    KVSpec,
    NotSupported,
    OutOfMemory,
    Paged,
    StepPlugin,
)
from anychip_sdk.kits.host import host_memory

FULL = Paged(layers=3, kv_heads=2, k_dim=64, v_dim=64)
WINDOWED = replace(FULL, layers=2, window=40)
SPECS = {"one group": (FULL,), "a windowed group too": (FULL, WINDOWED)}


def _layout(opened: Device | StepPlugin) -> Callable[..., KVLayout]:
    return opened.allocator.layout if isinstance(opened, Device) else opened.layout


@check(since="1.0")
def test_memory_is_possible(opened: Device | StepPlugin) -> None:
    memory = opened.allocator.memory() if isinstance(opened, Device) else opened.memory()
    assert 0 < memory.free <= memory.total, f"{memory.free} bytes of {memory.total} are free"


@check(since="1.0")
@pytest.mark.parametrize("groups", SPECS.values(), ids=SPECS.keys())
def test_a_layout_keeps_to_its_budget(opened: Device | StepPlugin, groups: tuple[Paged, ...]) -> None:
    """As many pages as fit, never fewer for more bytes, page 0 among them. A page takes no less than it holds."""
    _keeps_to_budgets(opened, KVSpec(groups, opened.capabilities.kv_dtypes[0]))


@check(since="1.2", profile="kv8")
def test_a_layout_counts_the_scales_of_8_bits(opened: Device | StepPlugin, kv8: KVDType, needed_profile: None) -> None:
    spec = KVSpec((FULL, WINDOWED), kv8)
    assert spec.page_bytes(0, 16) == 3 * 16 * 2 * 2 * (64 + 4)
    _keeps_to_budgets(opened, spec)


def _keeps_to_budgets(opened: Device | StepPlugin, spec: KVSpec) -> None:
    make, count = _layout(opened), len(spec.groups)
    before: tuple[int, ...] = ()
    for budget in (3 << 20, 5 << 20, 64 << 20):
        made = make(spec, budget=budget, page_size=None, max_len=100_000, slots=300)
        assert made.spec == spec and made.slots == 300  # noqa: PT018
        assert made.page_size in opened.capabilities.page_sizes, f"page size {made.page_size} is not declared"
        assert len(made.pages) == count and min(made.pages) >= 2, f"pages {made.pages}"  # noqa: PT018
        for g in range(count):
            held, taken = spec.page_bytes(g, made.page_size), made.page_bytes(g)
            assert taken >= held, f"a page of group {g} holds {held} bytes, but takes {taken} of the budget"
        assert made.nbytes <= budget, f"pages {made.pages} of {made.page_size} tokens are more than {budget} bytes"
        rest = budget - made.nbytes
        more = sum(made.page_bytes(g) for g in range(count))
        assert rest < 2 * more, f"{rest} bytes of {budget} are left over, a page in every group costs {more}"
        assert all(n >= b for n, b in zip(made.pages, before, strict=False)), "a larger budget buys fewer pages"
        before = made.pages


@check(since="1.0")
def test_no_more_pages_than_sequences_can_use(opened: Device | StepPlugin) -> None:
    spec, make = KVSpec((FULL,), opened.capabilities.kv_dtypes[0]), _layout(opened)
    made = make(spec, budget=256 << 20, page_size=None, max_len=100, slots=4)
    needed = 1 + 3 * -(-100 // made.page_size)
    assert made.pages[0] <= needed, f"{made.pages[0]} pages, but three sequences of 100 tokens can use {needed}"


@check(since="1.0", claim="page_sizes")
def test_every_declared_page_size_and_no_other(opened: Device | StepPlugin) -> None:
    spec, make = KVSpec((FULL,), opened.capabilities.kv_dtypes[0]), _layout(opened)
    sizes = opened.capabilities.page_sizes
    for size in sizes:
        made = make(spec, budget=64 << 20, page_size=size, max_len=4096, slots=9)
        assert made.page_size == size, f"pages of {size} tokens were asked for and declared, {made.page_size} given"
    for size in (3, 16, 17, 32, 48, 2 * max(sizes)):
        if size not in sizes:
            _refused(lambda size=size: make(spec, budget=64 << 20, page_size=size, max_len=64, slots=9),  # type: ignore[misc]
                     f"pages of {size} tokens")  # fmt: skip


@check(since="1.0")
def test_undeclared_kv_dtypes_are_refused(opened: Device | StepPlugin) -> None:
    make = _layout(opened)
    for dtype in (*ALL_DTYPES, *SCALED_KV):
        if dtype not in opened.capabilities.kv_dtypes:
            spec = KVSpec((FULL,), dtype)
            _refused(lambda spec=spec: make(spec, budget=64 << 20, page_size=None, max_len=64, slots=9),  # type: ignore[misc]
                     f"KV in {dtype}")  # fmt: skip


def _refused(call: Callable[[], Any], what: str) -> None:
    try:
        call()
    except NotSupported:
        return
    pytest.fail(f"{what} is not declared, but Allocator.layout does not raise NotSupported for it")


@check(since="1.0")
def test_a_budget_too_small_is_refused(opened: Device | StepPlugin) -> None:
    spec = KVSpec((FULL,), opened.capabilities.kv_dtypes[0])
    with pytest.raises(OutOfMemory):
        _layout(opened)(spec, budget=100, page_size=None, max_len=64, slots=9)


@check(since="1.0")
def test_more_than_there_is_cannot_be_allocated(lab: Lab) -> None:
    """OutOfMemory, not another error; and what fits can be had after it."""
    dtype, size = lab.device.capabilities.kv_dtypes[0], page_size(lab.device)
    huge = layout([Paged(layers=64, kv_heads=64, k_dim=256, v_dim=256)], dtype, size, 2**31)
    with pytest.raises(OutOfMemory):
        lab.device.allocator.allocate(huge)
    kv = lab.device.allocator.allocate(layout([FULL], dtype, size, 4))
    lab.device.allocator.free(kv)


@check(since="1.2")
def test_a_peak_is_measured_or_not_claimed(lab: Lab) -> None:
    """A device that can measure runs what it is given once and sees what it takes; another one leaves it alone."""
    device, runs = lab.device, 0
    asked = layout([FULL], device.capabilities.kv_dtypes[0], page_size(device), 256)

    def run() -> None:
        nonlocal runs
        runs += 1
        device.allocator.free(device.allocator.allocate(asked))

    peak = device.allocator.peak(run)
    assert runs == (peak is not None), f"it ran {runs} times for a peak of {peak} bytes"
    assert peak is None or peak >= asked.nbytes, f"a peak of {peak} bytes, while a cache of {asked.nbytes} was there"
    idle = device.allocator.peak(lambda: None)
    assert idle is None or idle < asked.nbytes, f"doing nothing has a peak of {idle} bytes"


@check(since="1.0")
def test_two_caches_are_apart(lab: Lab) -> None:
    dtype = _dtype(lab)
    one, two = Shelf(lab.device, lab.draw, dtype, pages=4), Shelf(lab.device, lab.again().draw, dtype, pages=4)
    for page in range(1, 4):
        one.fill(page, 1)
        two.fill(page, 2)
    one.expect(one.whole(dict.fromkeys(range(1, 4), 1)))
    two.close()
    one.expect(one.whole(dict.fromkeys(range(1, 4), 1)), what="after the other cache was freed: ")
    one.close()


def _dtype(lab: Lab) -> DType:
    claims = lab.device.capabilities
    return next(d for d in claims.weight_dtypes if d in claims.kv_dtypes)


@check(since="1.0")
def test_pages_are_copied_in_every_layer(lab: Lab, kv_dtype: DType) -> None:
    """source[i] to target[i], all layers of the group, K and V, and no other page."""
    _copies(Shelf(lab.device, lab.draw, kv_dtype, pages=8, layers=2, groups=2))


@check(since="1.2", profile="kv8")
def test_scales_are_copied_with_their_pages(lab: Lab, kv8: KVDType) -> None:
    _copies(Shelf(lab.device, lab.draw, _dtype(lab), pages=8, layers=2, groups=2, kept=kv8))


def _copies(shelf: Shelf) -> None:
    for page in range(1, 8):
        for layer, group in ((0, 0), (1, 0), (0, 1), (1, 1)):
            shelf.fill(page, (page + layer + 2 * group) % 6, layer, group)
    shelf.copy([3, 1], [6, 7], group=0)
    shelf.copy([], [], group=1)
    for layer, group in ((0, 0), (1, 0), (0, 1), (1, 1)):
        origin = {page: page for page in range(1, 8)} | ({6: 3, 7: 1} if group == 0 else {})
        held = {page: (source + layer + 2 * group) % 6 for page, source in origin.items()}
        shelf.expect(shelf.whole(held), layer, group, f"layer {layer} of group {group}: ")
    shelf.close()


@check(since="1.0")
def test_freed_memory_comes_back(lab: Lab) -> None:
    """Allocates, touches and frees far more than would go unseen. A host's heap takes some rounds until it has grown
    to what it keeps; a leak grows with every round."""
    dtype, device = _dtype(lab), lab.device
    size, group = page_size(device), Paged(layers=1, kv_heads=8, k_dim=128, v_dim=128)
    pages = max(4, (24 << 20) // KVSpec((group,), dtype).page_bytes(0, size))
    half = pages // 2
    source, target = np.arange(1, half, dtype=np.int32), np.arange(half, 2 * half - 1, dtype=np.int32)
    held = []
    for _ in range(16):
        kv = device.allocator.allocate(layout([group], dtype, size, pages))
        kv = device.allocator.copy_pages(kv, 0, source, target)  # an untouched page may not take memory yet
        device.allocator.free(kv)
        del kv
        held.append(_held(device))
    lost = held[-1] - held[9]
    assert lost < 3 * (12 << 20), f"six caches of 24 MiB were freed, and {lost / 2**20:.0f} MiB did not come back"


def _held(device: Device) -> int:
    """Bytes this process holds, and those taken from a device with a memory of its own."""
    statm, memory = Path("/proc/self/statm"), device.allocator.memory()
    resident = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
    on_host = memory.total == host_memory().total
    return resident if on_host else resident + memory.total - memory.free


class Pages(RuleBasedStateMachine):
    """Writes, copies and reads in any order, against a plain table of what each page should hold."""

    shelf: Shelf
    """Of all orders that are tried. Each has a cache of its own; steps that were compiled once serve all of them."""
    PAGES = 7

    @initialize()
    def allocate(self) -> None:
        self.shelf.bench.renew()
        self.held: dict[tuple[int, int], int] = {}
        for page in range(1, self.PAGES):
            self.shelf.fill(page, 0)
            self.held |= {(page, offset): 0 for offset in range(self.shelf.size)}

    @rule(page=st.integers(1, PAGES - 1), offset=st.integers(0, MAX_PAGE - 1), value=st.integers(1, 5))
    def write_one(self, page: int, offset: int, value: int) -> None:
        offset %= self.shelf.size
        self.shelf.write([(page, offset, value)])
        self.held[page, offset] = value

    @rule(page=st.integers(1, PAGES - 1), value=st.integers(1, 5))
    def write_page(self, page: int, value: int) -> None:
        self.shelf.fill(page, value)
        self.held |= self.shelf.whole({page: value})

    @rule(pages=st.permutations(range(1, PAGES)), count=st.integers(1, (PAGES - 1) // 2))
    def copy(self, pages: list[int], count: int) -> None:
        source, target = pages[:count], pages[count : 2 * count]
        self.shelf.copy(source, target)
        for a, b in zip(source, target, strict=True):
            self.held |= {(b, offset): self.held[a, offset] for offset in range(self.shelf.size)}

    @invariant()
    def every_page_holds_what_it_should(self) -> None:
        if hasattr(self, "held"):
            self.shelf.expect(self.held)

    def teardown(self) -> None:
        self.shelf.close()


@check(since="1.0")
def test_any_order_of_writes_and_copies(lab: Lab) -> None:
    _in_any_order(lab)


@check(since="1.2", profile="kv8")
def test_any_order_of_writes_and_copies_in_8_bits(lab: Lab, kv8: KVDType) -> None:
    _in_any_order(lab, kv8)


def _in_any_order(lab: Lab, kept: KVDType | None = None) -> None:
    shelf = Shelf(lab.device, lab.draw, _dtype(lab), pages=Pages.PAGES, kept=kept)
    machine = type("Pages", (Pages,), {"shelf": shelf})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40 if lab.thorough else 8, stateful_step_count=12, deadline=None, database=None,
            derandomize=True, suppress_health_check=list(HealthCheck), print_blob=False,
        ),
    )  # fmt: skip
