"""Which architecture is which family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from anychip.errors import ModelError
from anychip.models import decoder, shapes
from anychip.models.spec import ModelSpec

_MODULES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
    "MixtralForCausalLM": "mixtral",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
ARCHITECTURES = tuple(_MODULES)


@dataclass(frozen=True)
class Family:
    """A model family: config.json -> ModelSpec, its weight tree, the shapes of its tensors, the check of a
    checkpoint's, and the step."""

    from_config: Callable[[Mapping[str, Any]], ModelSpec]
    weights: Callable[[ModelSpec], dict[str, Any]] = decoder.weights
    shapes_of: Callable[[ModelSpec], dict[str, tuple[int, ...]]] = shapes.shapes_of
    check: Callable[[ModelSpec, Mapping[str, tuple[int, ...]]], None] = shapes.check
    forward: Callable[..., tuple[Any, Any]] = decoder.forward


def family(config: Mapping[str, Any]) -> Family:
    """Raises ModelError, listing the known ones, for an architecture that anychip does not have."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(names, list) or not isinstance(name, str) or name not in _MODULES:
        what = f"architecture {name!r:.60} in config.json"
        if names is None:
            what = "config.json lacks 'architectures' (a list with one name), so its architecture"
        hint = "use a model of one of these"
        if isinstance(config.get("text_config"), Mapping):
            hint = "it holds more than a text model: use a checkpoint of its text model alone"
        raise ModelError(f"{what} is unknown; known: {', '.join(ARCHITECTURES)}: {hint}")
    return Family(import_module(f"anychip.models.{_MODULES[name]}").from_config)
