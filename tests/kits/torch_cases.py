"""The same handles, pages and batches for the torch kit and for the numpy kit, its oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from anychip_sdk.contract import Batch, Capabilities, DeviceInfo, Reader, WeightSpec, view
from anychip_sdk.kits.numpy.platform import NumpyPlatform
from anychip_sdk.kits.torch import TorchDevice

ORACLE = NumpyPlatform().open()
DTYPES = ("float32", "bfloat16", "float16")
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
"""One unit in the last place, relative."""


def kit_device() -> TorchDevice:
    claims = Capabilities(weight_dtypes=DTYPES, kv_dtypes=DTYPES, sliding_window=True, softcap=True, moe=True)
    return TorchDevice(DeviceInfo(name="torch", description="the kit alone", details={}), claims, "cpu")


def draw(*shape: int, dtype: str = "float32", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 1000 * sum(shape))
    return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))


def wide(x: Any) -> np.ndarray:
    """Any tensor as float64."""
    return x.double().numpy()


def reader(tensors: dict[str, torch.Tensor]) -> tuple[Reader, dict[str, tuple[int, ...]]]:
    arrays = {name: t.float().numpy() for name, t in tensors.items()}
    return (lambda name, index=(): arrays[name][index]), {name: a.shape for name, a in arrays.items()}


def both(device: TorchDevice, spec: WeightSpec, tensors: dict[str, torch.Tensor], dtype: str) -> tuple[Any, Any]:
    """The handle of the device in `dtype`, and the oracle's in float64, of the same values."""
    read, shapes = reader({name: t.to(getattr(torch, dtype)) for name, t in tensors.items()})
    return device.pack(spec, read, shapes, dtype), ORACLE.pack(spec, read, shapes, "float64")


def close(got: torch.Tensor, wanted: np.ndarray, dtype: str, terms: int) -> None:
    """Within the rounding of `terms` additions in float32 (kernels accumulate in it) and of a few values in `dtype`.
    The scale is the largest value, as a sum's rounding follows its largest terms."""
    assert got.dtype == getattr(torch, dtype)
    assert got.shape == wanted.shape
    scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
    budget = scale * (4 * EPSILON[dtype] + terms * EPSILON["float32"])
    assert np.abs(wide(got) - wanted).max(initial=0.0) <= budget


def on_device(device: TorchDevice, host: Batch) -> Batch:
    """The host's batch as a step sees it: planned, uploaded, begun."""
    attention = device.ops.attention
    key = replace(host.key, static=attention.plan(host))
    fields = (vars(host)[name] for name in vars(host) if name not in ("key", "plan"))
    buffer = np.concatenate([array.ravel() for array in fields])
    return attention.begin(view(torch.from_numpy(buffer), key))
