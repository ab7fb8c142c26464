"""KV pages whose rows fill the lanes of a TPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anychip_sdk.contract import KVDType, KVLayout, KVSpec, NotSupported
from anychip_sdk.kits.jax import JaxAllocator, Ranks
from anychip_sdk.kits.jax.allocator import KV

TABLE_WORDS = 2**17
"""Entries of a step's page table: it lies in the chip's memory for scalars, 1 MiB, beside other work lists."""
LANES = 128
"""A row of memory. XLA would lay narrower heads out in another order than the kernels read."""
PAGE_SIZES = (16, 32, 64, 128)
"""A page of one head is whole tiles of memory, of 8 rows of 4 bytes or 16 of 2."""


EMULATED_BYTES = 2**26
"""KV cache of an emulated device, at most: its kernels copy the whole cache in every layer."""


class TpuAllocator(JaxAllocator):
    """most: bytes of KV cache, at most; None: as many as the core gives."""

    def __init__(self, ranks: Ranks, dtypes: Sequence[KVDType], most: int | None = None) -> None:
        super().__init__(ranks, dtypes, PAGE_SIZES)
        self._most = most

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        """Counts what pages take with their padding, and says so. Raises NotSupported where V's heads are not as wide
        as K's."""
        for group in spec.groups:
            if group.k_dim != group.v_dim:
                raise NotSupported(f"heads of K are {group.k_dim} wide and those of V {group.v_dim}; make them equal")
        budget = budget if self._most is None else min(budget, self._most)
        page_size = page_size or _page_size(max_len, slots)
        made = super().layout(_padded(spec), budget=budget, page_size=page_size, max_len=max_len, slots=slots)
        return replace(made, spec=spec, padded=tuple(made.page_bytes(g) for g in range(len(spec.groups))))

    def _describe(self, layout: KVLayout) -> KV:
        return super()._describe(replace(layout, spec=_padded(layout.spec)))


def _page_size(max_len: int, slots: int) -> int:
    """The smallest one from 32 on with which a step's page table fits."""
    fitting = (size for size in PAGE_SIZES if size >= 32 and slots * -(-max_len // size) <= TABLE_WORDS)
    return next(fitting, PAGE_SIZES[-1])


def _padded(spec: KVSpec) -> KVSpec:
    groups = tuple(replace(g, k_dim=_lanes(g.k_dim), v_dim=_lanes(g.v_dim)) for g in spec.groups)
    return replace(spec, groups=groups)


def _lanes(width: int) -> int:
    return -(-width // LANES) * LANES
