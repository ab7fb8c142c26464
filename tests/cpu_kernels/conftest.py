"""Devices whose kernels are those of one instruction set."""

from __future__ import annotations

import pytest
import torch
from anychip_cpu import native
from anychip_cpu.platform import CpuPlatform


@pytest.fixture(params=native.isas())
def device(request, monkeypatch):
    monkeypatch.setenv(native.FORCED, request.param)
    return CpuPlatform().open(threads=1)


@pytest.fixture(params=[1, 3], ids=lambda n: f"{n} threads")
def threads(request, device):
    """Set after the device is opened, which sets its own."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)
