"""One rank of several, each on a card of its own, over RCCL."""

from __future__ import annotations

from anychip_sdk.kits.triton.group import join

from anychip_rocm.device import RocmDevice
from anychip_rocm.platform import chosen


def open_rank(rank: int, size: int, rendezvous: str, timeout: float) -> RocmDevice:
    """For `anychip conformance --device rocm --group anychip_rocm.group:open_rank`. Rank r takes the r-th device that
    is found. Raises DeviceError; see `join` for the rest."""
    info, card = chosen(rank)
    return RocmDevice(info, card, join(card.index, rank, size, rendezvous, timeout))
