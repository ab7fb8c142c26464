"""The shapes that decoding steps are padded to, so that one recording serves many steps."""

from __future__ import annotations

from dataclasses import replace

from anychip_sdk.contract import Bucket

SEQS = (1, 2, 4, *range(8, 64, 8), *range(64, 257, 16))
"""Sequences; a step of more runs at its exact shapes."""
PAGES = tuple(4**n for n in range(4, 10))
"""Page-table columns. Attention works on the pages in use, whatever the table's width, which costs its upload alone; so
few widths, and few steps to record."""


def decode_bucket(exact: Bucket) -> Bucket | None:
    """The smallest of our shapes that holds a decoding step, a new object even where it is equal; None for others."""
    if not exact.decode or exact.rows > exact.seqs:
        return None
    seqs = next((n for n in SEQS if n >= exact.seqs), None)
    pages = next((n for n in PAGES if n >= exact.pages), None)
    if seqs is None or pages is None:
        return None
    return replace(exact, tokens=seqs, seqs=seqs, rows=seqs, pages=pages)
