"""Rotary embedding frequencies (RoFormer, arXiv:2104.09864) and their scalings."""

from __future__ import annotations

import math

import numpy as np

from anychip.errors import ModelError
from anychip.loading.config import ConfigReader
from anychip.models.spec import RopeTable

KNOWN = ("default", "linear", "llama3")


def rope_table(
    config: ConfigReader, head_dim: int, *, theta: float = 10000.0, section: str | None = None, scaled: bool = True
) -> RopeTable:
    """Frequencies as config.json gives them: `rope_parameters` (one object, or one per kind of layer, then named by
    `section`), or the older `rope_theta` and `rope_scaling`. theta: where the config has none. scaled: False for
    layers that `rope_scaling` leaves alone."""
    parameters = config.section("rope_parameters", None)
    if parameters is not None and section is not None:
        parameters = parameters.section(section, parameters)
    if parameters is None:
        theta = config.float("rope_theta", theta) if scaled else theta
        parameters = config.section("rope_scaling", None) if scaled else None
    else:
        theta = parameters.float("rope_theta", theta)
    rotary = int(head_dim * config.float("partial_rotary_factor", 1.0))
    if rotary != head_dim:
        raise ModelError("partial_rotary_factor is not 1; anychip has whole-head rope only: use another model")
    inverse = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)  # [head_dim / 2]
    if parameters is not None:
        inverse = _scale(inverse, parameters)
    return RopeTable(tuple(inverse.astype(np.float32).tolist()))


def _scale(inverse: np.ndarray, parameters: ConfigReader) -> np.ndarray:
    kind = parameters.str("rope_type", None) or parameters.str("type", "default")
    if kind == "default":
        return inverse
    if kind == "linear":  # position interpolation, arXiv:2306.15595
        return inverse / parameters.float("factor")
    if kind == "llama3":
        return _llama3(inverse, parameters)
    raise ModelError(f"rope type {kind!r} is unknown; known: {', '.join(KNOWN)}: use another model")


def _llama3(inverse: np.ndarray, parameters: ConfigReader) -> np.ndarray:
    """Llama 3.1's scaling (arXiv:2407.21783 and Meta's reference code): long waves are stretched by `factor`, short
    ones left, those between interpolated."""
    factor = parameters.float("factor")
    low = parameters.float("low_freq_factor")
    high = parameters.float("high_freq_factor")
    context = parameters.float("original_max_position_embeddings")
    waves = 2 * math.pi / inverse
    smooth = (context / waves - low) / (high - low)
    between = (1 - smooth) * inverse / factor + smooth * inverse
    stretched = np.where(waves > context / low, inverse / factor, inverse)
    medium = (waves <= context / low) & (waves >= context / high)
    return np.where(medium, between, stretched)
