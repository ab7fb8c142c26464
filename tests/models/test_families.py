"""Every family gives Transformers' logits and greedy tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anychip.models.registry import ARCHITECTURES, family
from numpy_runner import NumpyRunner
from tiny_models import CASES, older_form, save, tiny_model

PROMPT = [17, 3, 92, 45, 3, 60, 8, 71, 29, 88, 14, 5, 66]  # longer than every window, no multiple of the page size
NEW = 6


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    torch.set_num_threads(1)
    model = tiny_model(request.param)
    return model, save(model, tmp_path_factory.mktemp(request.param))


def reference(model: Any, tokens: list[int]) -> np.ndarray:
    """Transformers' logits [T, V], computed without a KV cache."""
    with torch.no_grad():
        return np.asarray(model(torch.tensor([tokens]), use_cache=False).logits[0])


def test_logits_of_a_prompt(case: tuple[Any, Path]) -> None:
    model, directory = case
    ours = NumpyRunner(directory, len(PROMPT)).forward(PROMPT, all_rows=True)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, reference(model, PROMPT), rtol=0, atol=1e-4)


def test_logits_of_chunks_and_decoding(case: tuple[Any, Path]) -> None:
    model, directory = case
    runner = NumpyRunner(directory, len(PROMPT))
    chunks = [PROMPT[:6], PROMPT[6:11], PROMPT[11:12], PROMPT[12:]]
    ours = np.concatenate([runner.forward(chunk, all_rows=True) for chunk in chunks])
    np.testing.assert_allclose(ours, reference(model, PROMPT), rtol=0, atol=1e-4)


def test_greedy_tokens(case: tuple[Any, Path]) -> None:
    model, directory = case
    expected: list[int] = []
    for _ in range(NEW):
        expected.append(int(reference(model, PROMPT + expected)[-1].argmax()))
    assert NumpyRunner(directory, len(PROMPT) + NEW).greedy(PROMPT, NEW) == expected


def test_older_config_form_means_the_same(case: tuple[Any, Path]) -> None:
    _, directory = case
    config = json.loads((directory / "config.json").read_text())
    kind = family(config)
    old = older_form(config)
    assert "rope_parameters" not in old
    assert kind.from_config(old) == kind.from_config(config)


def test_every_architecture_has_a_case() -> None:
    covered = {type(tiny_model(case)).__name__ for case in CASES}
    assert covered == set(ARCHITECTURES)
