"""The allocator's measurements on a card, with a fake of torch's books."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from anychip_sdk.kits.triton import Launcher, TritonAllocator

GIB = 2**30


@dataclass
class Books:
    """What torch.cuda says of a card. `done`: everything queued was waited for."""

    allocated: int = 3 * GIB
    reserved: int = 5 * GIB
    most: int = 100 * GIB
    done: bool = False

    def mem_get_info(self, device):
        return 40 * GIB, 80 * GIB

    def memory_allocated(self, device):
        return self.allocated

    def memory_reserved(self, device):
        return self.reserved

    def max_memory_allocated(self, device):
        assert self.done
        return self.most

    def reset_peak_memory_stats(self, device):
        self.most = self.allocated

    def synchronize(self, device):
        self.done = True


@pytest.fixture
def books(monkeypatch):
    fake = Books()
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    return fake


def test_a_peak_is_what_a_run_adds_to_what_was_in_use(books):
    def run():
        books.done, books.most = False, books.allocated + 2 * GIB

    allocator = TritonAllocator(Launcher(), torch.device("cuda", 0), ("bfloat16",))
    assert allocator.peak(run) == 2 * GIB
    assert allocator.peak(lambda: None) == 0


def test_what_torch_holds_unused_counts_as_free(books):
    allocator = TritonAllocator(Launcher(), torch.device("cuda", 0), ("bfloat16",))
    assert allocator.memory().free == (40 + 2) * GIB - 768 * 2**20


def test_the_host_is_not_measured():
    allocator = TritonAllocator(Launcher(), torch.device("cpu"), ("float32",))
    assert allocator.peak(lambda: pytest.fail("it must not run")) is None
