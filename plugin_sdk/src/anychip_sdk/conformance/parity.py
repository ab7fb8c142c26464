"""Whole engines against the oracle's: the tokens must be the same, and in 16 bits or with KV in 8 only near ties
may differ.

Near tie: the oracle gives both tokens' logprobs. Each may be off by twice the reference engine's largest error (see
`numerics.py`), so two tokens can change places where they are no further apart than twice that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anychip_sdk.conformance import models
from anychip_sdk.conformance.engines import Done, Engine
from anychip_sdk.conformance.lab import oracle_device
from anychip_sdk.conformance.reference import ReferenceDevice
from anychip_sdk.contract import SCALED_KV, Device, DType, KVDType, StepPlugin


def greedy(tokens: int, **fields: Any) -> Any:
    """Parameters of a greedy request that ends at `tokens`."""
    from anychip.sampling_params import SamplingParams

    return SamplingParams(**{"temperature": 0, "max_tokens": tokens, "detokenize": False, **fields})


@dataclass
class Model:
    """A checkpoint, what opens the device under test, and what the oracle says of both."""

    family: str
    dtype: DType
    path: Path
    open: Callable[[], Device | StepPlugin]
    seed: int
    kept: KVDType | None = None
    """what KV is kept in; None: in `dtype`"""
    _oracle: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        return self.dtype in ("float32", "float64") and self.kept not in SCALED_KV

    def engine(self, **options: Any) -> Engine:
        """On the device under test."""
        return Engine(self.path, self.open(), **{"dtype": self.dtype, "kv_dtype": self.kept or "auto", **options})

    def oracle(self, **options: Any) -> Engine:
        return Engine(self.path, oracle_device(), **{"dtype": "float64", **options})

    def oracle_tokens(self, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """Kept, since several checks ask for the same."""
        missing = [p for p in prompts if len(self._oracle.get(tuple(p), ())) < count]
        if missing:
            engine = self.oracle()
            for prompt, done in zip(missing, engine.generate(missing, greedy(count)), strict=True):
                self._oracle[tuple(prompt)] = done.tokens
            engine.close()
        return [self._oracle[tuple(p)][:count] for p in prompts]

    def scored(self, device: Device, dtype: DType, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """For every token of a sequence but the first: its logprob and the best one's. [N - 1, 2] each."""
        engine = Engine(self.path, device, dtype=dtype)
        done = engine.generate(sequences, greedy(1, prompt_logprobs=1))
        engine.close()
        return [np.array(d.prompt_logprobs) for d in done]

    @cached_property
    def e_ref(self) -> float:
        """The largest error of the reference engine's logprobs, over random tokens."""
        sequences = models.prompts((60, 60), self.seed + 1)
        exact = self.scored(oracle_device(), "float64", sequences)
        reference = ReferenceDevice(self.dtype, self.kept)
        mine = self.scored(reference, reference.capabilities.weight_dtypes[0], sequences)
        return float(max(np.abs(a - b).max() for a, b in zip(exact, mine, strict=True)))

    def check(self, prompts: Sequence[Sequence[int]], done: Sequence[Done], count: int, what: str = "") -> None:
        """Raises AssertionError unless every request gave the oracle's `count` tokens."""
        wanted = self.oracle_tokens(prompts, count)
        for i, (prompt, got, right) in enumerate(zip(prompts, done, wanted, strict=True)):
            assert got.error is None, f"{what}request {i} failed: {got.error}"
            assert len(got.tokens) == count, f"{what}request {i} gave {len(got.tokens)} tokens, {count} were asked for"
            if got.tokens != right:
                place = next(p for p, (a, b) in enumerate(zip(got.tokens, right, strict=True)) if a != b)
                where = f"{what}request {i} ({len(prompt)} tokens) differs from the oracle at new token {place}"
                assert not self.exact, f"{where}: {got.tokens[place]} instead of {right[place]}"
                self._check_ties(prompt, got.tokens, where)

    def _check_ties(self, prompt: Sequence[int], tokens: list[int], where: str) -> None:
        (scores,) = self.scored(oracle_device(), "float64", [[*prompt, *tokens]])
        gaps = (scores[:, 1] - scores[:, 0])[len(prompt) - 1 :]
        worst = int(gaps.argmax())
        assert gaps[worst] <= 4 * self.e_ref, (
            f"{where}; its token {worst} is {gaps[worst]:.3g} less likely (log) than the best one: no near tie, which "
            f"ends at {4 * self.e_ref:.3g} in {self.dtype}{f' with KV in {self.kept}' if self.kept else ''}"
        )


def fitting_page_size(claims_sizes: Sequence[int]) -> int:
    """16 where it is declared, else the smallest."""
    return 16 if 16 in claims_sizes else min(claims_sizes)
