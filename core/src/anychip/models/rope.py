"""Rotary embedding frequencies (RoFormer, arXiv:2104.09864) and their scalings."""

from __future__ import annotations

import math

import numpy as np

from anychip.errors import ModelError
from anychip.loading.config import ConfigReader
from anychip.models.common import positive
from anychip.models.spec import RopeTable

KNOWN = ("default", "linear", "llama3")


def rope_table(
    config: ConfigReader,
    head_dim: int,
    *,
    theta: float = 10000.0,
    theta_field: str = "rope_theta",
    section: str | None = None,
    scaled: bool = True,
) -> RopeTable:
    """Frequencies as config.json gives them: `rope_parameters` (one object, or one per kind of layer, then named by
    `section`), or the older `theta_field` and `rope_scaling`, which may stand beside it and then wins.

    theta: the base where the config has none. scaled: False for layers that `rope_scaling` leaves alone."""
    parameters = _parameters(config, section)
    scaling = config.section("rope_scaling", None) if scaled else None
    scaling = None if scaling is not None and scaling.empty else scaling
    base = _base(config, parameters, scaling, positive(config, theta_field, theta), merged=section is not None)
    for place in (config, parameters, scaling):
        rotated = 1.0 if place is None else place.float("partial_rotary_factor", 1.0)
        if rotated != 1.0:
            raise ModelError(
                f"partial_rotary_factor is {rotated:g} in config.json; known: 1 (the whole head): use another model"
            )
    inverse = base ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)  # [head_dim / 2]
    scaling = scaling if scaling is not None else parameters
    if scaling is not None:
        context = positive(config, "original_max_position_embeddings", None)
        inverse = _scale(inverse, scaling, context)
    return RopeTable(tuple(inverse.astype(np.float32).tolist()))


def _parameters(config: ConfigReader, section: str | None) -> ConfigReader | None:
    """`rope_parameters`, of one kind of layer where `section` names it; None where there are none."""
    parameters = config.section("rope_parameters", None)
    if parameters is None:
        return None
    if section is None:
        for kind in ("full_attention", "sliding_attention"):
            if parameters.section(kind, None) is not None:
                raise ModelError(
                    f"rope_parameters in config.json has {kind!r}, but the architecture has one rope for all layers; "
                    "use another model"
                )
        return parameters
    if parameters.str("rope_type", None) is not None or parameters.float("rope_theta", None) is not None:
        raise ModelError(
            "rope_parameters in config.json is one object for all layers, expected full_attention and "
            "sliding_attention in it, each with its own; correct the field"
        )
    return parameters.section(section, None)


def _base(
    config: ConfigReader, parameters: ConfigReader | None, scaling: ConfigReader | None, plain: float, *, merged: bool
) -> float:
    """plain: the base outside of both objects. merged: whether `rope_scaling` only adds to `rope_parameters`; else it
    replaces them, and a base that would be lost with them is an error."""
    scaled = None if scaling is None else positive(scaling, "rope_theta", None)
    own = None if parameters is None else positive(parameters, "rope_theta", None)
    if scaling is None or merged:
        own = own if scaled is None else scaled
        return plain if own is None else own
    base = plain if scaled is None else scaled
    if own is not None and own != base:
        raise ModelError(
            f"rope_theta is {own:g} in rope_parameters of config.json, but {base:g} by the rope_scaling beside it, "
            "which replaces them; move the scaling into rope_parameters"
        )
    return base


def _scale(inverse: np.ndarray, scaling: ConfigReader, context: float | None) -> np.ndarray:
    """context: `original_max_position_embeddings` outside of the scaling, which wins."""
    kind = scaling.str("rope_type", None) or scaling.str("type", "default")
    if kind == "default":
        return inverse
    if kind == "linear":  # position interpolation, arXiv:2306.15595
        return inverse / positive(scaling, "factor")
    if kind == "llama3":
        return _llama3(inverse, scaling, context)
    raise ModelError(f"rope_type is {kind!r} in config.json; known: {', '.join(KNOWN)}: use another model")


def _llama3(inverse: np.ndarray, scaling: ConfigReader, context: float | None) -> np.ndarray:
    """Llama 3.1's scaling (arXiv:2407.21783 and Meta's reference code): long waves are stretched by `factor`, short
    ones left, those between interpolated."""
    factor = positive(scaling, "factor")
    low = positive(scaling, "low_freq_factor")
    high = positive(scaling, "high_freq_factor")
    context = context or positive(scaling, "original_max_position_embeddings")
    if high <= low:
        raise ModelError(
            f"high_freq_factor is {high:g} in config.json, expected more than low_freq_factor {low:g}; "
            "correct the fields"
        )
    waves = 2 * math.pi / inverse
    smooth = (context / waves - low) / (high - low)
    between = (1 - smooth) * inverse / factor + smooth * inverse
    stretched = np.where(waves > context / low, inverse / factor, inverse)
    medium = (waves <= context / low) & (waves >= context / high)
    return np.where(medium, between, stretched)
