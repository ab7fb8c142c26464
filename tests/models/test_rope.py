"""Inverse frequencies equal Transformers' for every scaling that anychip knows."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from anychip.errors import ModelError
from anychip.loading.config import ConfigReader
from anychip.models.rope import rope_table
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA31 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LLAMA32 = LLAMA31 | {"factor": 32.0}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}


def ours(config: dict[str, Any], head_dim: int = 128, **options: Any) -> np.ndarray:
    return np.array(rope_table(ConfigReader(config, "config.json"), head_dim, **options).frequencies)


def theirs(parameters: dict[str, Any], head_dim: int) -> np.ndarray:
    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=131072, rope_parameters=dict(parameters))
    frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))
    assert factor == 1.0
    return np.asarray(frequencies)


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("parameters", [LLAMA31, LLAMA32, LINEAR], ids=["llama-3.1", "llama-3.2", "linear"])
def test_scaling(parameters: dict[str, Any], head_dim: int) -> None:
    np.testing.assert_allclose(ours({"rope_parameters": parameters}, head_dim), theirs(parameters, head_dim), rtol=2e-6)


def test_no_scaling() -> None:
    config = LlamaConfig(head_dim=64, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    expected = np.asarray(LlamaRotaryEmbedding(config).inv_freq)
    np.testing.assert_allclose(ours({"rope_theta": 1e6}, 64), expected, rtol=2e-6)


def test_llama3_has_three_bands() -> None:
    ratio = ours({"rope_theta": 500000.0}) / ours({"rope_parameters": LLAMA31})
    assert np.isclose(ratio, 1).any()
    assert np.isclose(ratio, 8).any()
    assert ((ratio > 1.01) & (ratio < 7.99)).any()
    assert (np.diff(ratio) >= -1e-5).all()


def test_forms_of_the_same_scaling() -> None:
    newer = ours({"rope_parameters": LINEAR | {"rope_theta": 5000.0}})
    older = {"rope_theta": 5000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    np.testing.assert_array_equal(ours(older), newer)
    np.testing.assert_array_equal(ours(older | {"rope_scaling": {"type": "linear", "factor": 4.0}}), newer)
    both = older | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
    np.testing.assert_array_equal(ours(both), newer)


def test_base() -> None:
    plain = ours({"rope_theta": 5000.0})
    np.testing.assert_array_equal(ours({}, theta=5000.0), plain)
    np.testing.assert_array_equal(ours({"rope_theta": 5000.0, "rope_parameters": {"rope_type": "default"}}), plain)
    np.testing.assert_array_equal(ours({"rope_theta": 5000, "rope_scaling": None}), plain)


def test_scaling_beside_other_fields_means_what_it_means_to_transformers() -> None:
    llama31 = {k: v for k, v in LLAMA31.items() if k != "rope_theta"}
    both = {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
    for config in (
        {"rope_theta": 5000.0, "rope_scaling": LINEAR | {"rope_theta": 700.0}},
        {"rope_theta": 5000.0, "rope_scaling": llama31, "original_max_position_embeddings": 512},
        {"rope_scaling": {}, "rope_parameters": LINEAR},
        {"rope_scaling": None, "rope_parameters": LLAMA31},
        both | {"rope_scaling": LINEAR | {"rope_theta": 5000.0}},
        both | {"rope_scaling": llama31, "rope_theta": 5000.0},
    ):
        model = LlamaConfig(head_dim=128, max_position_embeddings=131072, **copy.deepcopy(config))
        expected = np.asarray(LlamaRotaryEmbedding(model).inv_freq)
        np.testing.assert_allclose(ours(config), expected, rtol=2e-6, err_msg=str(config))


def test_of_kinds_of_layers_a_missing_one_is_plain_and_scaling_adds_to_the_other() -> None:
    config: dict[str, Any] = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5000.0}}}
    np.testing.assert_array_equal(ours(config, section="sliding_attention", theta=10.0), ours({"rope_theta": 10.0}))
    scaling = {"rope_type": "linear", "factor": 8}
    got = ours(config | {"rope_scaling": scaling}, section="full_attention", theta=10.0)
    np.testing.assert_array_equal(got, ours({"rope_theta": 5000.0, "rope_scaling": scaling}))
    with pytest.raises(ModelError, match="one object for all layers, expected full_attention and sliding_attention"):
        ours({"rope_parameters": LINEAR}, section="sliding_attention")


def test_unscaled_layers_ignore_rope_scaling() -> None:
    config = {"rope_local_base_freq": 5000.0, "rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8}}
    local = ours(config, theta_field="rope_local_base_freq", section="sliding_attention", scaled=False)
    np.testing.assert_array_equal(local, ours({"rope_theta": 5000.0}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'.*known: default, linear, llama3"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "rope_type is 'mrope'"),
        ({"rope_scaling": {"rope_type": 3}}, "'rope_type' is 3, expected a string"),
        ({"rope_scaling": "linear"}, "'rope_scaling' is 'linear', expected an object"),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks 'factor'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor is 0.*above 0"),
        ({"rope_theta": -1.0}, "rope_theta is -1"),
        ({"rope_theta": True}, "'rope_theta' is True, expected a number"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor is 0.25"),
        ({"rope_parameters": {"full_attention": LINEAR}}, "rope_parameters .* has 'full_attention', but .* one rope"),
        ({"rope_scaling": LINEAR | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        (
            {
                "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
                "rope_scaling": {"rope_type": "default"},
            },
            "rope_theta is 700 in rope_parameters of config.json, but 10000 by the rope_scaling.*move the scaling into",
        ),
        ({"rope_parameters": LLAMA31 | {"original_max_position_embeddings": None}}, "original_max_position_embeddings"),
        ({"rope_parameters": LLAMA31 | {"high_freq_factor": 1.0}}, "high_freq_factor is 1.*low_freq_factor 1"),
    ],
)
def test_wrong_fields(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        ours(config)
    assert "\n" not in str(error.value)
