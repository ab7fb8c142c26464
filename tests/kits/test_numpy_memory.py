"""KV pages: how many there are, where they lie, and what the host has free."""

from __future__ import annotations

import numpy as np
import pytest
from anychip_sdk.contract import ContractError, KVSpec, Memory, NotSupported, OutOfMemory, Paged
from anychip_sdk.kits import host
from anychip_sdk.kits.numpy import NumpyAllocator
from anychip_sdk.kits.paging import plan_pages
from anychip_sdk.kits.solo import Solo

ALLOCATOR = NumpyAllocator()
FULL = Paged(layers=2, kv_heads=2, k_dim=8, v_dim=4)
WINDOW = Paged(layers=3, kv_heads=2, k_dim=8, v_dim=8, window=20)
ONE, TWO = KVSpec((FULL,), "float32"), KVSpec((FULL, WINDOW), "float64")


def size(spec: KVSpec, page_size: int, pages: tuple[int, ...]) -> int:
    return sum(n * spec.page_bytes(g, page_size) for g, n in enumerate(pages))


@pytest.mark.parametrize("page_size", [1, 16, 100])
def test_no_more_pages_than_the_slots_can_use(page_size):
    layout = plan_pages(ONE, budget=1 << 40, page_size=page_size, max_len=50, slots=4)
    assert layout.pages == (1 + 3 * -(-50 // page_size),)
    assert (layout.page_size, layout.slots, layout.spec) == (page_size, 4, ONE)


@pytest.mark.parametrize("budget", [12_000, 50_000, 200_000, 10_000_000])
def test_pages_fill_the_budget_and_not_more(budget):
    layout = plan_pages(TWO, budget=budget, page_size=4, max_len=200, slots=5)
    full, window = layout.pages
    assert size(TWO, 4, layout.pages) <= budget
    assert window == min(full, 1 + 4 * (2 * 20 // 4 + 2))  # as many as the others, up to what it can ever use
    more = (full + 1, min(full + 1, 1 + 4 * 12))
    assert full == 1 + 4 * 50 or size(TWO, 4, more) > budget


def test_a_window_longer_than_the_sequences_takes_no_more_than_they_do():
    assert plan_pages(TWO, budget=1 << 40, page_size=4, max_len=10, slots=3).pages == (7, 7)


def test_a_budget_below_one_page_says_how_much_is_needed():
    need = 2 * (TWO.page_bytes(0, 16) + TWO.page_bytes(1, 16))
    assert plan_pages(TWO, budget=need, page_size=16, max_len=100, slots=3).pages == (2, 2)
    for budget in (need - 1, 0, -5):
        with pytest.raises(OutOfMemory, match=f"{budget} bytes do not hold two KV pages .* at least {need} bytes"):
            plan_pages(TWO, budget=budget, page_size=16, max_len=100, slots=3)


def test_the_allocator_chooses_or_refuses_page_sizes_and_dtypes():
    def layout(spec, page_size):
        return ALLOCATOR.layout(spec, budget=1 << 30, page_size=page_size, max_len=64, slots=2)

    assert layout(ONE, None).page_size == 16
    assert layout(ONE, 256).page_size == 256
    for refused in (0, 3, 512):
        with pytest.raises(NotSupported, match=f"no pages of {refused} tokens; use 1, 2, 4, 8, 16, 32, 64, 128, 256"):
            layout(ONE, refused)
    with pytest.raises(NotSupported, match="there is no KV in bfloat16; use float32, float64, int8, fp8"):
        layout(KVSpec((FULL,), "bfloat16"), 16)


def test_pages_are_copied_in_every_layer_and_nowhere_else():
    layout = ALLOCATOR.layout(TWO, budget=1 << 20, page_size=4, max_len=16, slots=2)
    kv = ALLOCATOR.allocate(layout)
    assert [(k.shape, v.shape, k.dtype.name) for k, v in kv] == [
        ((2, 5, 4, 2, 8), (2, 5, 4, 2, 4), "float64"),
        ((3, 5, 4, 2, 8), (3, 5, 4, 2, 8), "float64"),
    ]
    rng = np.random.default_rng(0)
    for cache in (c for group in kv for c in group):
        cache[:] = rng.standard_normal(cache.shape)
    wanted = [[c.copy() for c in group] for group in kv]
    for cache in wanted[1]:
        cache[:, 3], cache[:, 1] = cache[:, 2], cache[:, 4]
    assert ALLOCATOR.copy_pages(kv, 1, np.array([2, 4], np.int32), np.array([3, 1], np.int32)) is kv
    for group, expected in zip(kv, wanted, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(group, expected, strict=True))
    none = np.zeros(0, np.int32)
    ALLOCATOR.copy_pages(kv, 0, none, none)
    ALLOCATOR.free(kv)


@pytest.mark.parametrize("pages", [1 << 40, 1 << 60])
def test_more_than_there_is_raises_out_of_memory(pages):
    layout = ALLOCATOR.layout(ONE, budget=1 << 20, page_size=16, max_len=16, slots=2)
    too_many = type(layout)(layout.spec, layout.page_size, (pages,), layout.slots)
    with pytest.raises(OutOfMemory, match="no memory for"):
        ALLOCATOR.allocate(too_many)


class FakeHost:
    def __init__(self, path, monkeypatch):
        self.path = path
        monkeypatch.setattr(host, "_MEMINFO", path / "meminfo")
        monkeypatch.setattr(host, "_CGROUP", path)
        monkeypatch.setattr(host.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.path / name.replace("_", ".")).write_text(text)


@pytest.fixture
def fake_host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


def test_memory_without_proc_is_half_of_what_there_is(fake_host):
    assert host.host_memory() == Memory(free=2_048_000, total=4_096_000)


def test_memory_is_what_linux_calls_available(fake_host):
    fake_host.write(meminfo="MemTotal:  4000 kB\nMemAvailable:   3000 kB\nHugePages_Total:  0\n", memory_max="max\n")
    assert host.host_memory() == Memory(free=3_072_000, total=4_096_000)


def test_memory_is_under_the_limit_of_the_cgroup(fake_host):
    fake_host.write(meminfo="MemAvailable: 3000 kB\n", memory_max="2000000\n", memory_current="500000\n")
    assert host.host_memory() == Memory(free=1_500_000, total=2_000_000)
    fake_host.write(memory_stat="anon 1\ninactive_file 400000\n")
    assert host.host_memory() == Memory(free=1_900_000, total=2_000_000)
    fake_host.write(memory_current="3000000\n")
    assert host.host_memory().free == 0


def test_memory_of_this_machine():
    memory = ALLOCATOR.memory()
    assert 0 < memory.free <= memory.total


def test_a_group_of_one_gives_back_what_it_got():
    solo, x = Solo(), np.arange(6).reshape(2, 3)
    assert (solo.rank, solo.size) == (0, 1)
    results = [solo.all_reduce(x), solo.broadcast(x, 0)]
    results += [collective(x, 1) for collective in (solo.all_gather, solo.reduce_scatter, solo.all_to_all)]
    assert all(y is x for y in results)
    solo.barrier()
    for call in (lambda: solo.send(x, 1), lambda: solo.receive(x, 1), lambda: solo.broadcast(x, 1)):
        with pytest.raises(ContractError, match="rank 1: the group has one rank"):
            call()
