"""How many KV pages fit: the arithmetic that every kit's `Allocator.layout` needs."""

from __future__ import annotations

from anychip_sdk.contract import KVLayout, KVSpec, OutOfMemory


def plan_pages(
    spec: KVSpec, *, budget: int, page_size: int, max_len: int, slots: int, padded: tuple[int, ...] = ()
) -> KVLayout:
    """A layout of at most `budget` bytes whose groups all hold the same sequences: as many pages as fit, up to
    `slots - 1` sequences of `max_len` tokens. A windowed group has as many pages as the others, but no more than
    `slots - 1` sequences can use, so it is never the one that runs out first. Page 0 comes on top in every group.
    padded: as in `KVLayout`.

    Raises OutOfMemory, with the bytes needed, where not every group can have page 0 and one page more."""
    cost = padded or tuple(spec.page_bytes(g, page_size) for g in range(len(spec.groups)))
    most = [max(1, slots - 1) * _pages_per_sequence(g.window, page_size, max_len) for g in spec.groups]

    def pages(usable: int) -> tuple[int, ...]:
        return tuple(1 + min(usable, limit) for limit in most)

    def size(usable: int) -> int:
        return sum(n * c for n, c in zip(pages(usable), cost, strict=True))

    if size(1) > budget:
        raise OutOfMemory(
            f"{budget} bytes do not hold two KV pages of {page_size} tokens per group; give at least {size(1)} bytes"
        )
    low, high = 1, max(most, default=1)  # size(low) fits; search for the largest count that does
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle - 1)
    return KVLayout(spec, page_size, pages(low), slots, padded)


def _pages_per_sequence(window: int | None, page_size: int, max_len: int) -> int:
    """Pages one sequence can use. In a windowed group: its window, a prefill chunk as long as the window, and the
    two pages that these may begin and end in."""
    whole = max(1, -(-max_len // page_size))
    return whole if window is None else min(whole, -(-2 * window // page_size) + 2)
