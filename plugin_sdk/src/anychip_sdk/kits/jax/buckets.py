"""Which shapes steps are padded to, so that few programs serve all of them."""

from __future__ import annotations

from dataclasses import dataclass

from anychip_sdk.contract import Bucket, SampleKind

EDITS, COUNTS = 256, 4096
"""Logit edits and penalised tokens of a step that programs are made for; longer lists have programs of their own."""
LONGER = 16
"""How those grow."""


@dataclass(frozen=True)
class Buckets:
    """Shapes grow from these: fewer programs with a larger growth, less padding with a smaller one. Columns of the page
    table, and sequences where some prefill, are padded at little cost and grow by `coarse`, all else by `growth`."""

    tokens: int = 16
    seqs: int = 8
    pages: int = 16
    growth: int = 2
    coarse: int = 4

    def of(self, exact: Bucket, most_seqs: int | None = None, most_pages: int | None = None) -> Bucket:
        """The bucket of a step. Logit rows are as many as sequences, unless prompt logprobs ask for more. Where every
        sequence decodes, tokens are as many as sequences. most_seqs, most_pages: of any step, where that is known; a
        page table grown in both directions beyond them would be many times what is used."""
        seqs = _grown(exact.seqs, self.seqs, self.growth if exact.decode else self.coarse, most_seqs)
        rows = _grown(exact.rows, seqs, self.growth)
        pages = _grown(exact.pages, self.pages, self.coarse, most_pages)
        tokens = seqs if exact.decode else _grown(exact.tokens, self.tokens, self.growth)
        return Bucket(tokens, seqs, pages, rows, exact.decode, exact.groups)


def few_kinds(exact: SampleKind, logprobs: int) -> SampleKind:
    """Greedy, random, or everything at once with `logprobs` alternatives."""
    if exact == SampleKind(filters=exact.filters):
        return exact
    return SampleKind(
        filters=True,
        penalties=_grown(exact.penalties, COUNTS, LONGER),
        edits=_grown(exact.edits, EDITS, LONGER),
        logprobs=max(logprobs, exact.logprobs or 0),
    )


def _grown(count: int, least: int, growth: int, most: int | None = None) -> int:
    """`least` times a power of `growth`, or the first of its multiples to hold `most`."""
    grown = least
    while grown < count:
        grown *= growth
    limit = grown if most is None else -(-most // least) * least
    return grown if count > limit else min(grown, limit)
