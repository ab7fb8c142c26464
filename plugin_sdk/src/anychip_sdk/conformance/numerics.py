"""How far from exact a result may be: never further than twice what a plain implementation in the same dtype is.

For every case the inputs are drawn in the test dtype. The oracle computes them in float64. The reference computes them
in the test dtype (see `reference.py`); `E_ref` is its largest distance from the oracle. A device passes if everywhere

    |out - oracle| <= 2 * E_ref + eps * |oracle|        (eps: one unit in the last place, relative)

and the normalised mean square error is under the ceiling of the suite's version, or under four times the reference's
own where that is higher. Nobody sets a tolerance by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from anychip_sdk.contract import DType, KVDType

Wide = NDArray[np.float64]

_NUMPY: Mapping[KVDType, Any] = {
    "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float64": np.float64,
}  # fmt: skip
EPS: Mapping[DType, float] = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10, "float64": 2.0**-52}
"""One unit in the last place, relative."""


def nmse_ceiling(dtype: DType) -> float:
    """Of suite 1: an error of 16 units in the last place everywhere."""
    return (16 * max(EPS[dtype], EPS["float32"])) ** 2  # results come back in float32


def carrier(dtype: KVDType) -> Any:
    """The numpy dtype in which values of `dtype` are kept and computed: float32 holds both 16-bit formats."""
    return np.float64 if dtype == "float64" else np.float32


def rounded(x: Any, dtype: KVDType) -> NDArray[Any]:
    """x on the grid of `dtype`, as its carrier."""
    with np.errstate(over="ignore"):
        y: NDArray[Any] = np.asarray(x).astype(_NUMPY[dtype]).astype(carrier(dtype))
    return y


def stored(x: Any, dtype: DType) -> NDArray[Any]:
    """x in numpy's own form of `dtype`, as a checkpoint has it."""
    y: NDArray[Any] = np.asarray(x).astype(_NUMPY[dtype])
    return y


@dataclass(frozen=True)
class Verdict:
    """`ratio`: the largest error over its budget; above 1 is a failure. `where`: index of that element."""

    ratio: float
    error: float
    budget: float
    e_ref: float
    nmse: float
    ceiling: float
    where: tuple[int, ...]

    @property
    def passed(self) -> bool:
        return self.ratio <= 1 and self.nmse <= self.ceiling

    def explain(self) -> str:
        if not self.ratio <= 1:
            return (
                f"|out - oracle| is {self.error:.3g} at {list(self.where)}, allowed {self.budget:.3g} "
                f"(E_ref {self.e_ref:.3g}): {self.ratio:.3g} times the budget"
            )
        return f"the normalised mean square error is {self.nmse:.3g}, allowed {self.ceiling:.3g}"


def judge(out: NDArray[Any], oracle: NDArray[Any], reference: NDArray[Any], dtype: DType) -> Verdict:
    """All of one shape. The oracle's values must be finite."""
    assert out.shape == oracle.shape == reference.shape, f"{out.shape} came back, {oracle.shape} expected"
    got, exact = out.astype(np.float64), oracle.astype(np.float64)
    assert np.isfinite(exact).all(), "the case is not fit for use: the oracle is not finite"
    if not got.size:
        return Verdict(0, 0, 0, 0, 0, nmse_ceiling(dtype), ())
    error = np.abs(got - exact)
    e_ref = float(np.abs(reference.astype(np.float64) - exact).max())
    budget = 2 * e_ref + max(EPS[dtype], EPS["float32"]) * np.abs(exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / budget)
    ratio = np.where(np.isnan(got), np.inf, ratio)
    where = np.unravel_index(int(ratio.argmax()), ratio.shape)
    power = float((exact**2).mean())
    nmse, theirs = (float((e**2).mean()) / power if power else 0.0 for e in (error, reference - exact))
    place = tuple(int(i) for i in where)
    ceiling = max(nmse_ceiling(dtype), 4 * theirs)
    return Verdict(float(ratio[where]), float(error[where]), float(budget[where]), e_ref, nmse, ceiling, place)
