"""A group of the torch kit over gloo, as `anychip conformance --group torch_group:open_rank` wants it."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from anychip_sdk.contract import Capabilities, DeviceInfo
from anychip_sdk.kits.torch import TorchCommunicator, TorchDevice

CLAIMS = Capabilities(weight_dtypes=("float32",), kv_dtypes=("float32",), max_world_size=4)


def open_rank(rank: int, size: int, rendezvous: str, timeout: float, communicator=TorchCommunicator) -> TorchDevice:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
    )
    info = DeviceInfo(name="torch", description="the torch kit over gloo", details={})
    return TorchDevice(info, CLAIMS, "cpu", communicator())
