"""Devices whose kernels are those of one instruction set."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from anychip_cpu import native
from anychip_cpu.device import CpuDevice
from anychip_cpu.platform import CpuPlatform


@cache
def opened(isa: str) -> CpuDevice:
    """Thousands of tests share it. The instruction set is forced while it is opened."""
    return CpuPlatform().open(threads=1)


@pytest.fixture(params=native.isas())
def device(request, monkeypatch):
    monkeypatch.setenv(native.FORCED, request.param)
    shared = opened(request.param)
    torch.set_num_threads(1)
    return shared


@pytest.fixture(params=[1, 3], ids=lambda n: f"{n} threads")
def threads(request, device):
    """Set after the device is asked for, which sets its own."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)
