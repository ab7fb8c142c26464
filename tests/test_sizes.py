"""Sizes as people write them."""

from __future__ import annotations

import pytest
from anychip.sizes import gib, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("4096b", 4096), ("12345678901234567890", 12345678901234567890),
        ("500MB", 500 * 10**6), ("4GiB", 4 * 2**30), ("4 gib", 4 * 2**30), ("4G", 4 * 2**30), ("64k", 65536),
        ("1.5GiB", 3 * 2**29), ("0.5 KB", 500), ("2TB", 2 * 10**12), (" 1TiB ", 2**40),
    ],
)  # fmt: skip
def test_forms_that_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "4GBs", "4 G B", "1e9", "1.5.2G", "4PB", "\u0664GB", "1_000", "0x10", "half"]
)
def test_forms_that_are_not(text):
    with pytest.raises(ValueError, match="is no size; expected a number of bytes, or a size such as 4GiB or 500MB"):
        parse_size(text)


def test_what_is_shown():
    assert [gib(n) for n in (5, 2**20, 2**30)] == ["5 bytes", "1.0 MiB", "1.00 GiB"]
