"""KV writes: every token's K and V land in their own slot, and nowhere else. All comparisons are exact."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.areas.conftest import Lab
from anychip_sdk.conformance.marks import check
from anychip_sdk.conformance.shelf import DIM, HEADS, Shelf
from anychip_sdk.contract import Bucket, DType, KVDType, StepKey

PAGES = 6


@pytest.fixture
def shelf(lab: Lab, kv_dtype: DType) -> Iterator[Shelf]:
    made = Shelf(lab.device, lab.draw, kv_dtype, pages=PAGES, layers=2)
    for page in range(1, PAGES):
        for layer in (0, 1):
            made.fill(page, page % 3, layer)
    yield made
    made.close()


def canaries(shelf: Shelf) -> dict[tuple[int, int], int]:
    """What the fixture has written in both layers."""
    return shelf.whole({page: page % 3 for page in range(1, PAGES)})


@check(since="1.0")
def test_what_is_written_is_read_back(shelf: Shelf) -> None:
    shelf.expect(canaries(shelf), layer=0)
    shelf.expect(canaries(shelf), layer=1)


@check(since="1.0")
def test_a_write_touches_its_slot_alone(shelf: Shelf) -> None:
    """At both ends of a page, in one layer: neighbours, other pages and the other layer keep what they had."""
    cells = [(2, 0, 4), (4, shelf.size - 1, 5), (1, shelf.size // 2, 4)]
    shelf.write(cells, layer=1)
    wanted = canaries(shelf) | {(page, offset): value for page, offset, value in cells}
    shelf.expect(wanted, layer=1)
    shelf.expect(canaries(shelf), layer=0, what="layer 0, which nothing was written to: ")


@check(since="1.0")
def test_slots_in_any_order(shelf: Shelf, lab: Lab) -> None:
    """One step writes to all pages in a random order."""
    places = [(page, offset) for page in range(1, PAGES) for offset in range(shelf.size)]
    order = lab.draw.permutation("order", len(places))
    cells = [(*places[i], 3 + i % 3) for i in order]
    shelf.write(cells)
    shelf.expect({(page, offset): value for page, offset, value in cells})


@check(since="1.0")
def test_a_page_given_to_another_sequence_holds_only_its_tokens(shelf: Shelf) -> None:
    """A page is reused in part: a reader of the new tokens meets none of the old ones."""
    half = max(1, shelf.size // 2)
    shelf.expect(canaries(shelf))  # read once, so that nothing read may be kept
    shelf.write([(3, offset, 5) for offset in range(half)])
    wanted = canaries(shelf) | {(3, offset): 5 for offset in range(half)}
    shelf.expect(wanted)


@check(since="1.0")
@pytest.mark.parametrize("tokens", [1, 5])
def test_an_all_zero_batch_harms_nothing(shelf: Shelf, tokens: int) -> None:
    """What a device that warms up runs: everything goes to scratch."""
    for decode in (True, False):
        key = StepKey(Bucket(tokens, tokens, 2, tokens, decode))
        shelf.bench.run(shelf.body(0, 0), batches.empty(key), HEADS * DIM)
    shelf.expect(canaries(shelf))


@check(since="1.0")
def test_padding_goes_to_scratch(shelf: Shelf) -> None:
    """A batch with more room than tokens: what lies behind the counts is zero, and means scratch."""
    exact = shelf.writing([(2, 1 % shelf.size, 4)])
    padded = batches.empty(StepKey(Bucket(4, 4, 3, 4, True)))
    batches.copy_into(padded, exact)
    shelf.bench.run(shelf.body(0, 0), padded, HEADS * DIM)
    shelf.expect(canaries(shelf) | {(2, 1 % shelf.size): 4})


@check(since="1.0")
def test_a_prompt_in_chunks_is_the_prompt_at_once(shelf: Shelf) -> None:
    """Two sequences over three pages, written whole and in uneven chunks."""
    size, length = shelf.size, shelf.size + max(1, shelf.size // 2)
    tables = [[1, 2], [5, 3]]
    ids = [np.arange(length) % size + value * size for value in (3, 4)]

    def step(spans: list[tuple[int, int]]) -> None:
        batch = batches.ragged(spans, [tables], size, ids)
        shelf.bench.run(shelf.body(0, 0), batch, HEADS * DIM)

    cuts = sorted({0, 1, size - 1, size, length})
    for start, end in pairwise(cuts):
        step([(start, end - start), (start, end - start)])
    wanted = canaries(shelf)
    for pages, value in zip(tables, (3, 4), strict=True):
        wanted |= {(pages[p // size], p % size): value for p in range(length)}
    shelf.expect(wanted)


@check(since="1.0")
def test_groups_have_pages_of_their_own(lab: Lab, kv_dtype: DType) -> None:
    """Page 2 of one group is not page 2 of another, and a batch has a table for each."""
    shelf = Shelf(lab.device, lab.draw, kv_dtype, pages=5, groups=2)
    for group, value in ((0, 1), (1, 2)):
        for page in range(1, 5):
            shelf.fill(page, value, group=group)
    for group, value in ((0, 1), (1, 2)):
        shelf.expect(shelf.whole(dict.fromkeys(range(1, 5), value)), group=group, what=f"group {group}: ")
    shelf.write([(2, 0, 3)], group=1)
    shelf.expect(shelf.whole(dict.fromkeys(range(1, 5), 2)) | {(2, 0): 3}, group=1, what="group 1: ")
    shelf.expect(shelf.whole(dict.fromkeys(range(1, 5), 1)), group=0, what="group 0 after a write to group 1: ")
    shelf.close()


@check(since="1.0")
def test_write_alone(shelf: Shelf) -> None:
    """`Attention.write` does what `run` does, where arrays have a reshape to call it with."""

    def write(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        k, v = (ops.embedding(batch.token_ids, w[n]) for n in "kv")
        if not hasattr(k, "reshape"):
            pytest.skip("arrays of this device have no reshape")
        k, v = k.reshape(-1, HEADS, DIM), v.reshape(-1, HEADS, DIM)
        kv = ops.attention.write(k, v, kv, batch, shelf.layer(0, 0))
        return ops.embedding(batch.token_ids, w["v"]), kv

    shelf.bench.run(write, shelf.writing([(4, 0, 5), (5, shelf.size - 1, 3)]), HEADS * DIM)
    shelf.expect(canaries(shelf) | {(4, 0): 5, (5, shelf.size - 1): 3})


@check(since="1.2", profile="kv8")
def test_what_is_written_in_8_bits_is_read_back(lab: Lab, dtype: DType, kv8: KVDType) -> None:
    """Each vector with a scale of its own, to the rounding of the format; and nothing else is touched."""
    shelf = Shelf(lab.device, lab.draw, dtype, pages=PAGES, layers=2, kept=kv8)
    for page in range(1, PAGES):
        for layer in (0, 1):
            shelf.fill(page, page % 3, layer)
    shelf.expect(canaries(shelf), layer=0)
    cells = [(2, 0, 4), (4, shelf.size - 1, 5), (1, shelf.size // 2, 4)]
    shelf.write(cells, layer=1)
    shelf.expect(canaries(shelf) | {(page, offset): value for page, offset, value in cells}, layer=1)
    shelf.expect(canaries(shelf), layer=0, what="layer 0, which nothing was written to: ")
    shelf.bench.run(shelf.body(0, 0), batches.empty(StepKey(Bucket(5, 5, 2, 5, True))), HEADS * DIM)
    shelf.expect(canaries(shelf), layer=0, what="after a batch of zeros: ")
    shelf.close()
