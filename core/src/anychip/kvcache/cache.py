"""Block tables over request slots, in all KV groups at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from anychip_sdk.contract import KVLayout

from anychip.kvcache.pool import PagePool


@dataclass(frozen=True)
class PrefixHit:
    """A cached prefix: `tokens` of it, and per group its pages in order (0 where they lie behind the window)."""

    tokens: int
    pages: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PageCopy:
    """Copy-on-write: page `source` of a group goes to `target` before the step runs."""

    group: int
    source: int
    target: int


class KVCache:
    """Which pages each request slot holds. `table` [G, S, P] is what batches are cut from."""

    def __init__(self, layout: KVLayout, max_len: int) -> None:
        self.layout = layout
        self.page_size = layout.page_size
        self.pools = tuple(PagePool(n) for n in layout.pages)
        self.windows = tuple(g.window for g in layout.spec.groups)
        columns = -(-max_len // layout.page_size)
        self.table = np.zeros((len(self.pools), layout.slots, columns), np.int32)  # [G, S, P]
        self.num_pages = np.zeros(layout.slots, np.int32)  # [S] columns in use
        self._first = np.zeros((len(self.pools), layout.slots), np.int32)  # [G, S] first column not behind the window

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    @property
    def usage(self) -> float:
        """Share of pages in use, of the fullest group."""
        return max(p.in_use / (p.num_pages - 1) for p in self.pools)

    def find_prefix(self, names: Sequence[bytes]) -> PrefixHit:
        """The longest prefix all of whose needed pages are cached, `names` being those of its full pages."""
        found = [[pool.find(name) or 0 for name in names] for pool in self.pools]
        for length in range(len(names), 0, -1):
            first = [self._first_needed(g, length * self.page_size) for g in range(len(self.pools))]
            if all(all(pages[f:length]) for pages, f in zip(found, first, strict=True)):
                return PrefixHit(
                    length * self.page_size,
                    tuple((0,) * f + tuple(pages[f:length]) for pages, f in zip(found, first, strict=True)),
                )
        return PrefixHit(0, tuple(() for _ in self.pools))

    def _first_needed(self, group: int, computed: int) -> int:
        """First page that the token before position `computed` (a fork computes it again) or a later one sees."""
        window = self.windows[group]
        return 0 if window is None else max(0, computed - window) // self.page_size

    def can_admit(self, hit: PrefixHit, tokens: int, chunk: int, margin: int) -> bool:
        """Whether a sequence of `tokens`, run in steps of `chunk`, fits beside `margin` pages kept free."""
        for group, pool in enumerate(self.pools):
            window = self.windows[group]
            pages = self.pages_for(tokens)
            if window is not None:
                pages = min(pages, self.pages_for(window + chunk) + 1)
            shared = [p for p in hit.pages[group] if p]
            revived = sum(pool.is_idle(p) for p in shared)
            if max(0, pages - len(shared)) + revived + margin > pool.available:
                return False
        return True

    def open(self, slot: int, hit: PrefixHit) -> None:
        """Starts a slot with a cached prefix."""
        for group, pages in enumerate(hit.pages):
            self.pools[group].share([p for p in pages if p])
            self.table[group, slot, : len(pages)] = pages
            self._first[group, slot] = next((i for i, p in enumerate(pages) if p), len(pages))
        self.num_pages[slot] = hit.tokens // self.page_size

    def reserve(self, slot: int, tokens: int) -> bool:
        """Pages for the first `tokens` of the slot's sequence, in every group or in none. False: too few free."""
        have = int(self.num_pages[slot])
        need = self.pages_for(tokens) - have
        if need <= 0:
            return True
        if any(pool.available < need for pool in self.pools):
            return False
        for group, pool in enumerate(self.pools):
            self.table[group, slot, have : have + need] = pool.take(need)
        self.num_pages[slot] = have + need
        return True

    def reservable(self, slot: int) -> int:
        """Tokens the slot's sequence could reach with the pages that are free now."""
        free = min(pool.available for pool in self.pools)
        return (int(self.num_pages[slot]) + free) * self.page_size

    def fork(self, parent: int, child: int, tokens: int) -> None:
        """The child shares the parent's pages of the first `tokens`; whoever writes into one copies it first."""
        count = self.pages_for(tokens)
        for group, pool in enumerate(self.pools):
            pages = self.table[group, parent, :count]
            pool.share([int(p) for p in pages if p])
            self.table[group, child, :count] = pages
            self._first[group, child] = self._first[group, parent]
        self.num_pages[child] = count

    def make_writable(self, slot: int, position: int) -> list[PageCopy] | None:
        """Copies (to be made before the step) after which the page of `position` is the slot's alone. None: too few
        free pages, and nothing was changed."""
        column = position // self.page_size
        if column >= self.num_pages[slot]:
            return []
        shared = []
        for group, pool in enumerate(self.pools):
            page = int(self.table[group, slot, column])
            if page and (pool.references[page] > 1 or pool.is_named(page)):  # a name may find it any time
                shared.append((group, page))
        if any(self.pools[group].available < 1 for group, _ in shared):
            return None
        copies = []
        for group, page in shared:
            target = self.pools[group].take(1)[0]
            self.pools[group].drop([page])
            self.table[group, slot, column] = target
            copies.append(PageCopy(group, page, target))
        return copies

    def name_pages(self, slot: int, names: Sequence[bytes], start: int, end: int) -> None:
        """Makes the slot's pages start..end - 1, now full, findable under their names."""
        for group, pool in enumerate(self.pools):
            for column in range(start, end):
                if page := int(self.table[group, slot, column]):
                    pool.name(page, names[column])

    def free_behind_window(self, slot: int, computed: int) -> None:
        """Gives back pages that no token from position `computed` on can see."""
        for group, window in enumerate(self.windows):
            if window is None:
                continue
            first, until = int(self._first[group, slot]), self._first_needed(group, computed)
            if until > first:
                self.pools[group].drop([int(p) for p in self.table[group, slot, first:until][::-1] if p])
                self.table[group, slot, first:until] = 0
                self._first[group, slot] = until

    def leaves_pages(self, slot: int, computed: int) -> bool:
        """Whether `free_behind_window` would give back any."""
        return any(self._first_needed(g, computed) > self._first[g, slot] for g in range(len(self.pools)))

    def release(self, slot: int) -> None:
        """Gives back everything the slot holds."""
        count = int(self.num_pages[slot])
        for group, pool in enumerate(self.pools):
            pool.drop([int(p) for p in self.table[group, slot, :count][::-1] if p])
            self.table[group, slot, :count] = 0
            self._first[group, slot] = 0
        self.num_pages[slot] = 0

    def forget_prefix(self, names: Sequence[bytes]) -> None:
        """Nobody finds the pages of these names any more; who holds one keeps it."""
        for pool in self.pools:
            for name in names:
                pool.unname(name)

    def forget_prefixes(self) -> None:
        """Empties the prefix cache."""
        for pool in self.pools:
            pool.forget()

    def check_integrity(self) -> None:
        """Raises AssertionError unless block tables, counts and free lists agree."""
        for group, pool in enumerate(self.pools):
            held = np.bincount(self.table[group].ravel(), minlength=pool.num_pages)
            held[0] = 0
            pool.check_integrity(held)
            columns = np.arange(self.table.shape[2])
            beyond = columns[None, :] >= self.num_pages[:, None]
            assert not self.table[group][beyond].any(), "a slot holds a page past its end"
