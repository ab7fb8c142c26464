"""One rank of several, each on a card of its own, over NCCL."""

from __future__ import annotations

from anychip_sdk.kits.triton.group import join

from anychip_cuda.device import CudaDevice
from anychip_cuda.platform import chosen


def open_rank(rank: int, size: int, rendezvous: str, timeout: float) -> CudaDevice:
    """For `anychip conformance --device cuda --group anychip_cuda.group:open_rank`. Rank r takes the r-th device that
    is found. Raises DeviceError; see `join` for the rest."""
    info, card = chosen(rank)
    return CudaDevice(info, card, join(card.index, rank, size, rendezvous, timeout))
