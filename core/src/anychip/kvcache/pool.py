"""The pages of one KV group: reference counts, the free list, and names of full pages for the prefix cache."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np


class PagePool:
    """Pages 1 to num_pages - 1; page 0 is scratch and never given out.

    A page nobody references is free. If its content has a name it stays findable until it is needed: nameless free
    pages go first, then named ones, least recently used first.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.references = np.zeros(num_pages, np.int32)  # [pages]
        self._blank = list(range(num_pages - 1, 0, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # named and unreferenced, oldest first
        self._page_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Pages that `take` can give."""
        return len(self._blank) + len(self._idle)

    @property
    def in_use(self) -> int:
        return self.num_pages - 1 - self.available

    def take(self, count: int) -> list[int]:
        """`count` pages with one reference each. The caller has checked `available`."""
        pages = []
        for _ in range(count):
            if self._blank:
                page = self._blank.pop()
            else:
                page, _ = self._idle.popitem(last=False)
                del self._page_of[self._name_of.pop(page)]
            self.references[page] = 1
            pages.append(page)
        return pages

    def share(self, pages: list[int]) -> None:
        """One more reference to each page (free named pages come back into use)."""
        for page in pages:
            if self.references[page] == 0:
                del self._idle[page]
            self.references[page] += 1

    def drop(self, pages: list[int]) -> None:
        """One reference less to each page. Give a sequence's pages last first: its tail is forgotten before its
        head, which more requests share."""
        for page in pages:
            assert self.references[page] > 0, f"page {page} is freed twice"
            self.references[page] -= 1
            if self.references[page] == 0:
                if page in self._name_of:
                    self._idle[page] = None
                else:
                    self._blank.append(page)

    def name(self, page: int, name: bytes) -> None:
        """Makes a full page findable. The first page of a name keeps it; a page keeps its first name."""
        if name not in self._page_of and page not in self._name_of:
            self._page_of[name] = page
            self._name_of[page] = name

    def find(self, name: bytes) -> int | None:
        return self._page_of.get(name)

    def is_named(self, page: int) -> bool:
        return page in self._name_of

    def is_idle(self, page: int) -> bool:
        """Free, but still findable."""
        return page in self._idle

    def unname(self, name: bytes) -> None:
        """Makes the page of this name, if there is one, unfindable."""
        page = self._page_of.pop(name, None)
        if page is not None:
            del self._name_of[page]
            if page in self._idle:
                del self._idle[page]
                self._blank.append(page)

    def forget(self) -> None:
        """Drops all names: nothing cached is found any more."""
        self._blank.extend(self._idle)
        self._idle.clear()
        self._page_of.clear()
        self._name_of.clear()

    def check_integrity(self, held: np.ndarray) -> None:
        """held: [pages] how often the block tables hold each page. Raises AssertionError on any disagreement."""
        assert np.array_equal(held[1:], self.references[1:]), "reference counts differ from the block tables"
        assert held[0] == 0, "scratch page 0 is held"
        free = set(self._blank) | set(self._idle)
        assert len(free) == self.available, "a page is on a free list twice"
        assert free == set(np.flatnonzero(self.references[1:] == 0) + 1), "the free lists disagree with the counts"
        assert {p: n for n, p in self._page_of.items()} == self._name_of, "names and pages disagree"
        assert set(self._idle) <= set(self._name_of), "a nameless page is kept as cached"
