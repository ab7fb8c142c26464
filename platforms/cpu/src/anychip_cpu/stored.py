"""Weights as plain data and back, for the file that the core keeps of them."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from hashlib import sha256
from importlib import metadata
from typing import Any

import numpy as np
import torch
from anychip_sdk.contract import ContractError, NotSupported, StoredWeight
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

from anychip_cpu.library import library_path
from anychip_cpu.packed import PackedWeight
from anychip_cpu.quantized import IntExperts, IntWeight, TiedWeight
from anychip_cpu.screened import ScreenedIntWeight, ScreenedWeight
from anychip_cpu.weight_memory import WeightMemory

CLASSES: dict[str, type[Weight]] = {
    cls.__name__: cls
    for cls in (Weight, PackedWeight, ScreenedWeight, IntWeight, ScreenedIntWeight, TiedWeight, IntExperts)
}
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.uint8)}


@cache
def maker() -> str:
    """Who lays weights out: this distribution, and the bytes of its library."""
    path = library_path()
    assert path is not None  # nothing is stored without it
    return f"anychip-cpu {metadata.version('anychip-cpu')} {sha256(path.read_bytes()).hexdigest()[:16]}"


def store(weight: Weight) -> StoredWeight:
    arrays: list[np.ndarray] = []
    return StoredWeight(_facts(weight, arrays), tuple(arrays))


def _facts(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, Tensor):
        arrays.append(value.contiguous().reshape(-1).view(torch.uint8).numpy())
        return {"dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, Weight):
        if type(value).__name__ not in CLASSES:
            raise NotSupported(f"cpu stores no {type(value).__name__}, whose layout is oneDNN's own")
        held = {field.name: _facts(getattr(value, field.name), arrays) for field in fields(value)}
        return {"class": type(value).__name__, "fields": held}
    return [_facts(one, arrays) for one in value] if isinstance(value, tuple) else value


def restore(stored: StoredWeight, memory: WeightMemory) -> Weight:
    """What is quantised goes to `memory`. Raises ContractError for what `store` never made, and OutOfMemory."""
    arrays = list(stored.arrays)
    try:
        found = _value(stored.facts, arrays, memory)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ContractError(f"these are no weights of anychip-cpu: {error}") from error
    if not isinstance(found, Weight) or arrays:
        raise ContractError("these are no weights of anychip-cpu: facts and arrays do not go together")
    return found


def _value(facts: Any, arrays: list[np.ndarray], memory: WeightMemory, copied: bool = False) -> Any:
    """Takes its arrays off the front of `arrays`. Only quantised weights are copied: of the others, copies were no
    faster."""
    if isinstance(facts, list):
        return tuple(_value(one, arrays, memory, copied) for one in facts)
    if not isinstance(facts, dict):
        return facts
    if "class" in facts:
        cls = CLASSES[facts["class"]]
        whole = issubclass(cls, IntWeight)
        return cls(**{name: _value(one, arrays, memory, whole) for name, one in facts["fields"].items()})
    found = torch.from_numpy(arrays.pop(0)).view(DTYPES[facts["dtype"]]).reshape(facts["shape"])
    return memory.copy(found) if copied else found
