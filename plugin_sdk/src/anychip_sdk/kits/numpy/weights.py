"""Weight handles, and the way from a checkpoint's arrays to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anychip_sdk.contract import ContractError, DType, Reader, WeightSpec
from anychip_sdk.contract.specs import WeightKind
from anychip_sdk.kits.weights import check, read_bias, read_parts

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Weight:
    """`parts`, one array per output part: linear [O, I], experts [E, O, I], embedding [V, E], norm, vector and rope
    [N]. `bias`: [O] for each part, or none at all."""

    kind: WeightKind
    parts: tuple[np.ndarray, ...]
    bias: tuple[np.ndarray, ...] = ()

    def only(self, kind: WeightKind) -> np.ndarray:
        """The one part. Raises ContractError where the handle is of another kind."""
        if self.kind != kind:
            raise ContractError(f"this op takes a weight of kind {kind}, not {self.kind}; pack it as {kind}")
        return self.parts[0]


def pack(spec: WeightSpec, read: Reader, shapes: Shapes, dtype: DType) -> Weight:
    """See `Device.pack`. Norms, vectors and rope are in `dtype` too: it is float32 or better.

    Raises ContractError where a tensor is missing, or where shapes cannot make one handle."""
    if spec.const is not None:
        return Weight(spec.kind, (spec.const.astype(dtype),))
    check(spec, shapes)
    parts = tuple(part.astype(dtype) for part in read_parts(spec, read, shapes))
    if spec.offset:
        parts = tuple(part + np.dtype(dtype).type(spec.offset) for part in parts)
    return Weight(spec.kind, parts, tuple(bias.astype(dtype) for bias in read_bias(spec, read, shapes)))
