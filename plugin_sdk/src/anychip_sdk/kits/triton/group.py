"""Joining a group of ranks, each on a card of its own."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from anychip_sdk.contract import DeviceError
from anychip_sdk.kits.torch import TorchCommunicator


def join(index: int, rank: int, size: int, rendezvous: str, timeout: float) -> TorchCommunicator:
    """Over NCCL, or over RCCL, which torch's ROCm builds call by that name; arrays on the host go over gloo. index: of
    this rank's card. rendezvous: the path of a file that does not exist yet, the same for all ranks. timeout: seconds.
    Raises DeviceError where there are fewer cards than ranks: two ranks on one card would wait for ever."""
    if size > torch.cuda.device_count():
        raise DeviceError(f"a group of {size} needs a card for each rank; there are {torch.cuda.device_count()}")
    torch.cuda.set_device(index)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=f"file://{rendezvous}", rank=rank, world_size=size,
        timeout=timedelta(seconds=timeout), device_id=torch.device("cuda", index),
    )  # fmt: skip
    return TorchCommunicator()
