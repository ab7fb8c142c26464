"""Pages whose content can be read back exactly, through attention alone; with KV in 8 bits, as exactly as these are.

The key at offset o of every page is a code: row o of a Hadamard matrix, then its negatives, so that two codes never
have more in common than nothing. A decode that asks with code o finds the value at offset o with a weight of exactly
one: all other scores are so far below that their exponentials are zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.inputs import Draw, table
from anychip_sdk.conformance.lab import Array, Bench, Body, layout
from anychip_sdk.conformance.numerics import EPS
from anychip_sdk.conformance.quantised import rounding
from anychip_sdk.contract import SCALED_KV, AttentionSpec, Batch, Device, DType, KVDType, Layer, Paged

HEADS, DIM = 2, 64
MAX_PAGE = 2 * DIM
SPEC = AttentionSpec(head_dim=DIM, scale=8.0)
"""A match scores 8 * 64, everything else at most 0."""

Cell = tuple[int, int, int]
"""Page, offset, and which of the drawn values."""


def page_size(device: Device) -> int:
    """A declared page size that codes tell apart, 16 if there is."""
    sizes = [s for s in device.capabilities.page_sizes if s <= MAX_PAGE]
    if not sizes:
        pytest.skip(f"no declared page size is at most {MAX_PAGE}")
    return 16 if 16 in sizes else sizes[-1]


def codes(size: int) -> Array:
    """[size, DIM] of 1 and -1."""
    h = np.ones((1, 1))
    while len(h) < DIM:
        h = np.block([[h, h], [h, -h]])
    return np.concatenate([h, -h])[:size]


class Shelf:
    """`pages` pages, scratch included, in each of `layers` layers, and one more, where the readers' own tokens go. A
    value is [HEADS * DIM] and is written by the token whose id is value * size + offset."""

    def __init__(
        self, device: Device, draw: Draw, dtype: DType, *, pages: int = 9, values: int = 6, layers: int = 1,
        groups: int = 1, kept: KVDType | None = None,
    ) -> None:  # fmt: skip
        self.size = page_size(device)
        self.pages, self.groups = pages, groups
        self.dtype, self.kept = dtype, kept or dtype
        self.values = draw.normal("values", values * self.size, HEADS * DIM, dtype=dtype)
        if self.kept in SCALED_KV:  # neighbours differ in scale; powers of two stay on the dtype's grid
            self.values *= 2.0 ** (np.arange(len(self.values)) % 5 - 2)[:, None].astype(self.values.dtype)
        keys = np.tile(np.tile(codes(self.size), (values, 1)), (1, HEADS))
        none = np.zeros((self.size, HEADS * DIM), np.float32)
        tables = {
            "q": table(np.concatenate([keys, keys[: self.size]])),
            "k": table(np.concatenate([keys, none])),  # readers bring no key and no value of their own
            "v": table(np.concatenate([self.values, none])),
        }
        paged = Paged(layers=layers, kv_heads=HEADS, k_dim=DIM, v_dim=DIM)
        self.bench = Bench(device, dtype, tables, layout([paged] * groups, self.kept, self.size, pages + 1, slots=2048))
        self._reader = values * self.size  # id of the reader of offset 0
        self._bodies: dict[tuple[int, int], Body] = {}

    def write(self, cells: Sequence[Cell], layer: int = 0, group: int = 0) -> None:
        """Each cell by a decode of its own, in one step."""
        self.bench.run(self.body(layer, group), self.writing(cells, group), HEADS * DIM)

    def writing(self, cells: Sequence[Cell], group: int = 0) -> Batch:
        """The other groups have other pages: theirs lie one further on."""
        size = self.size
        tables = [[[0] * (len(cells) and 1) for _ in cells] for _ in range(self.groups)]
        ids = [np.array([value * size + offset]) for _, offset, value in cells]
        batch = batches.ragged([(0, 1)] * len(cells), tables, size, ids)
        for i, (page, offset, _) in enumerate(cells):
            other = page % (self.pages - 1) + 1
            batch.page_table[:, i, 0], batch.page_table[group, i, 0] = other, page
            batch.slot_mapping[:, i], batch.slot_mapping[group, i] = other * size + offset, page * size + offset
        return batch

    def fill(self, page: int, value: int, layer: int = 0, group: int = 0) -> None:
        self.write([(page, offset, value) for offset in range(self.size)], layer, group)

    def read(self, pages: Sequence[int], layer: int = 0, group: int = 0) -> Array:
        """[pages, size, HEADS * DIM], as they were written."""
        size, count = self.size, len(pages)
        spans = [(size, 1)] * (count * size)
        mine = [[[page, self.pages] for page in pages for _ in range(size)]]
        other = [[[page % (self.pages - 1) + 1, self.pages] for page in pages for _ in range(size)]]
        tables = other * group + mine + other * (self.groups - group - 1)
        ids = [np.full(size + 1, self._reader + offset) for _ in pages for offset in range(size)]
        out = self.bench.run(self.body(layer, group), batches.ragged(spans, tables, size, ids), HEADS * DIM)
        return out.reshape(count, size, HEADS * DIM)

    def expect(self, wanted: dict[tuple[int, int], int], layer: int = 0, group: int = 0, what: str = "") -> None:
        """wanted: (page, offset) -> value. Raises AssertionError where a page holds something else."""
        pages = sorted({page for page, _ in wanted})
        got = self.read(pages, layer, group)
        for (page, offset), value in wanted.items():
            right = self.values[value * self.size + offset].astype(np.float32)
            assert self._same(got[pages.index(page), offset], right), (
                f"{what}page {page}, offset {offset} does not hold what was written there"
            )

    def _same(self, got: Array, right: Array) -> bool:
        """Bit by bit; in 8 bits to twice what rounding moves a number, and the rounding of the result."""
        if self.kept not in SCALED_KV:
            return np.array_equal(got, right)
        heads = right.reshape(HEADS, DIM).astype(np.float64)
        allowed = 2 * rounding(heads, self.kept) + max(EPS[self.dtype], EPS["float32"]) * np.abs(heads)
        return bool((np.abs(got.reshape(HEADS, DIM) - heads) <= allowed).all())

    def whole(self, contents: dict[int, int]) -> dict[tuple[int, int], int]:
        """page -> value, for every offset."""
        return {(page, offset): value for page, value in contents.items() for offset in range(self.size)}

    def copy(self, source: Sequence[int], target: Sequence[int], group: int = 0) -> None:
        a, b = np.array(source, np.int32), np.array(target, np.int32)
        self.bench.kv = self.bench.device.allocator.copy_pages(self.bench.kv, group, a, b)

    def layer(self, index: int, group: int) -> Layer:
        return Layer(replace(SPEC, group=group), index)

    def body(self, index: int, group: int) -> Body:
        if (index, group) not in self._bodies:
            self._bodies[index, group] = self._make_body(index, group)
        return self._bodies[index, group]

    def _make_body(self, index: int, group: int) -> Body:
        layer = self.layer(index, group)

        def body(ops: Any, w: Any, batch: Batch, kv: Any) -> tuple[Any, Any]:
            q, k, v = (ops.embedding(batch.token_ids, w[n]) for n in "qkv")
            return ops.attention.run(q, k, v, kv, batch, layer)  # type: ignore[no-any-return]

        return body

    def close(self) -> None:
        self.bench.close()
