"""How many KV pages fit: the arithmetic that every kit's `Allocator.layout` needs."""

from __future__ import annotations

from anychip_sdk.contract import KVLayout, KVSpec, OutOfMemory


def plan_pages(spec: KVSpec, *, budget: int, page_size: int, max_len: int, slots: int) -> KVLayout:
    """A layout of at most `budget` bytes. Every group gets the same share of the pages it could ever use, page 0
    included: `slots - 1` sequences of `max_len` tokens, in a windowed group of its window and two pages more.

    Raises OutOfMemory where not every group can have scratch and one page."""
    most = [_pages_per_sequence(g.window, page_size, max_len) * (slots - 1) + 1 for g in spec.groups]
    cost = [spec.page_bytes(g, page_size) for g in range(len(spec.groups))]
    share = min(1.0, budget / sum(n * c for n, c in zip(most, cost, strict=True)))
    pages = tuple(int(n * share) for n in most)
    if min(pages) < 2:
        raise OutOfMemory(f"{budget} bytes hold less than two KV pages a group; {2 * sum(cost)} bytes are the least")
    return KVLayout(spec, page_size, pages, slots)


def _pages_per_sequence(window: int | None, page_size: int, max_len: int) -> int:
    tokens = max_len if window is None else min(max_len, window + 2 * page_size)
    return -(-tokens // page_size)
