"""Where packed weights lie."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from anychip_cpu import weight_memory
from anychip_cpu.weight_memory import CHUNK, LINE, PAGE, WeightMemory
from anychip_sdk.contract import OutOfMemory


def test_weights_lie_side_by_side_from_the_start_of_a_page_on():
    memory = WeightMemory()
    first, second = memory.empty((3, 5), torch.float32), memory.empty((7,), torch.bfloat16)
    assert first.data_ptr() % PAGE == 0
    assert second.data_ptr() == first.data_ptr() + LINE
    assert (first.shape, second.dtype) == ((3, 5), torch.bfloat16)
    first.zero_()
    second.fill_(3)
    assert not first.any()


@pytest.mark.parametrize("shape", [(0, 4), (CHUNK - 1,), (CHUNK + 1,), (2 * CHUNK,)])
def test_any_size(shape):
    memory = WeightMemory()
    one, other = memory.empty(shape, torch.uint8), memory.empty((LINE,), torch.uint8)
    assert one.shape == shape
    assert other.data_ptr() >= one.data_ptr() + one.nbytes or other.data_ptr() + LINE <= one.data_ptr()


def test_a_chunk_is_gone_with_its_weights():
    memory = WeightMemory()
    x = memory.empty((4,), torch.float32)
    gone = weakref.ref(x.untyped_storage())
    del x, memory
    gc.collect()
    assert gone() is None


def test_what_is_too_much_to_copy_stays_where_it_is():
    memory = WeightMemory(copied=40)
    x = torch.arange(8, dtype=torch.float32)
    copy = memory.copy(x)
    assert copy.equal(x)
    assert copy.data_ptr() != x.data_ptr()
    assert memory.copy(x) is x
    assert memory.copy(x[:2]) is not x


def test_no_memory_is_said(monkeypatch):
    def full(*size, **options):
        raise RuntimeError("can't allocate memory")

    memory = WeightMemory()
    monkeypatch.setattr(weight_memory.torch, "empty", full)
    with pytest.raises(OutOfMemory, match="no memory for 67108864 bytes of weights"):
        memory.empty((4,), torch.float32)
