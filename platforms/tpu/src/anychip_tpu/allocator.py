"""KV pages whose rows fill the lanes of a TPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from anychip_sdk.contract import SCALED_KV, KVDType, KVLayout, KVSpec, NotSupported, Paged
from anychip_sdk.kits.jax import JaxAllocator, Ranks
from anychip_sdk.kits.jax.allocator import KV

TABLE_WORDS = 2**17
"""Entries of a step's page table: it lies in the chip's memory for scalars, 1 MiB, beside other work lists."""
LANES = 128
"""A row of memory. XLA would lay narrower heads out in another order than the kernels read."""
PAGE_SIZES = (16, 32, 64, 128)
"""A page of one head is whole tiles of memory, of 8 rows of 4 bytes or of 16 of 2 or of 1. In 8 bits it has one row of
scales beside it, however few tokens it holds."""


EMULATED_BYTES = 2**26
"""KV cache of an emulated device, at most: its kernels copy the whole cache in every layer."""


class TpuAllocator(JaxAllocator):
    """most: bytes of KV cache, at most; None: as many as the core gives."""

    def __init__(self, ranks: Ranks, dtypes: Sequence[KVDType], most: int | None = None) -> None:
        super().__init__(ranks, dtypes, PAGE_SIZES)
        self._most = most

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        """Raises NotSupported where V's heads are not as wide as K's."""
        for group in spec.groups:
            if group.k_dim != group.v_dim:
                raise NotSupported(f"heads of K are {group.k_dim} wide and those of V {group.v_dim}; make them equal")
        budget = budget if self._most is None else min(budget, self._most)
        page_size = page_size or _page_size(max_len, slots, 64 if spec.dtype in SCALED_KV else 32)
        return super().layout(spec, budget=budget, page_size=page_size, max_len=max_len, slots=slots)

    def _padded(self, spec: KVSpec, size: int) -> tuple[int, ...]:
        wide = replace(spec, groups=tuple(map(_wide, spec.groups)))
        unused = 2 * 4 * (LANES - size) if spec.dtype in SCALED_KV else 0  # bytes of the rows of scales
        heads = (g.layers * g.kv_heads for g in spec.groups)
        return tuple(wide.page_bytes(g, size) + count * unused for g, count in enumerate(heads))

    def _describe(self, layout: KVLayout) -> KV:
        groups = tuple(map(_wide, layout.spec.groups))
        return super()._describe(replace(layout, spec=replace(layout.spec, groups=groups)))

    def _row_of_scales(self, size: int) -> tuple[int, ...]:
        """Lane `i` holds the scale of the token at `i % size`, so that kernels need not move lanes about."""
        return (1, LANES)


def _page_size(max_len: int, slots: int, least: int) -> int:
    """The smallest one from `least` on with which a step's page table fits."""
    fitting = (size for size in PAGE_SIZES if size >= least and slots * -(-max_len // size) <= TABLE_WORDS)
    return next(fitting, PAGE_SIZES[-1])


def _wide(group: Paged) -> Paged:
    return replace(group, k_dim=_lanes(group.k_dim), v_dim=_lanes(group.v_dim))


def _lanes(width: int) -> int:
    return -(-width // LANES) * LANES
