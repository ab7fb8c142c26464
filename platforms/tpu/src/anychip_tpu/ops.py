"""The ops of the TPU: XLA's, but for attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from anychip_sdk.contract import Allocator, Attention, Ops
from anychip_sdk.kits.jax import JaxOps, Ranks
from anychip_sdk.kits.jax.moe import Grouped
from anychip_sdk.kits.jax.weights import Weight
from jax import Array

from anychip_tpu.attention import TpuAttention
from anychip_tpu.kernels.grouped import ROWS, grouped
from anychip_tpu.kernels.interpreters import Interpret

_XLA = "traced by the SDK's JAX kit and fused by XLA"


class TpuOps(JaxOps):
    adopted: ClassVar[Mapping[str, str]] = {
        **{name: _XLA for name in vars(Ops) if not name.startswith("_")},
        **{f"attention.{name}": _XLA for name in vars(Attention) if not name.startswith("_")},
        **{f"allocator.{name}": _XLA for name in vars(Allocator) if not name.startswith("_")},
    }

    _dense_rows = 256
    """A chip does so many products on a weight while it reads the next one."""

    def __init__(self, ranks: Ranks, interpret: Interpret) -> None:
        super().__init__(ranks)
        self.attention = TpuAttention(ranks, interpret)

        def product(x: Array, w: Weight, sizes: Array) -> Array:
            stack, place = w.stack
            return grouped(x, stack, place, sizes, interpret)

        self._grouped = Grouped(product, ROWS)
