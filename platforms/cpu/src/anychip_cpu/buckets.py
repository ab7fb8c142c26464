"""The shapes that steps are recorded in. Kernels loop over what is really there, so large shapes cost only memory that
is never touched, and few of them serve all steps."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from anychip_sdk.contract import Bucket

TOKENS = 4**7
TABLE = 4**9
"""The most tokens, and entries of a page table; steps of more run at their exact shapes."""
FEW_TOKENS = 4**5
FEW_ENTRIES = 4**6
"""Steps of fewer share a shape: to record one more takes ten milliseconds and more, to copy so many numbers a few
microseconds."""
PAGES = 4**3
"""A table has room for so many of a sequence, at least."""


@lru_cache(maxsize=4096)
def recorded_bucket(exact: Bucket) -> Bucket | None:
    """The shapes that a step is recorded in; None where it is not recorded."""
    pages = max(PAGES, _power(exact.pages))
    alone = exact.decode and exact.seqs == 1
    seqs = 1 if alone else max(_power(exact.seqs), FEW_ENTRIES // pages)
    tokens = seqs if exact.decode else max(FEW_TOKENS, _power(exact.tokens))
    rows = seqs if exact.rows <= seqs else _power(exact.rows)
    if tokens > TOKENS or seqs * pages * exact.groups > TABLE:
        return None
    return replace(exact, tokens=tokens, seqs=seqs, rows=rows, pages=pages)


def _power(n: int) -> int:
    """The smallest power of four from n on."""
    power = 1
    while power < n:
        power *= 4
    return power
