"""Qwen3 (arXiv:2505.09388): RMSNorm on every query and key head, no biases unless asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anychip.models import qwen2
from anychip.models.spec import ModelSpec


def from_config(config: Mapping[str, Any]) -> ModelSpec:
    return replace(qwen2.windowed(config), architecture="Qwen3ForCausalLM", qk_norm=True)
