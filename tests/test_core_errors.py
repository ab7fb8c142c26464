"""What every error of the core has in common."""

from __future__ import annotations

from anychip import CapacityError, RequestError


def test_an_error_is_one_line_though_it_quotes_several():
    error = CapacityError("cpu ran out of memory: a vendor says\nwhat it tried\r\nand what it wants")
    assert str(error) == "cpu ran out of memory: a vendor says what it tried and what it wants"
    assert str(RequestError("top_p is 2", "top_p")) == "top_p is 2"
