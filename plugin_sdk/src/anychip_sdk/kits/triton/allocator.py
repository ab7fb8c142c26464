"""KV pages whose copies are one kernel for each layer's K and V."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from anychip_sdk.contract import KVDType, Memory
from anychip_sdk.kits.torch.allocator import KV, PAGE_SIZES, TorchAllocator
from anychip_sdk.kits.torch.scaled import tensors
from anychip_sdk.kits.triton.kernels.pages import copy_pages
from anychip_sdk.kits.triton.launch import Launcher

KEPT_BACK = 768 * 2**20
"""Bytes that are not offered: recorded graphs, the libraries' workspaces and the kernels' code take theirs later."""


class TritonAllocator(TorchAllocator):
    def __init__(
        self, launch: Launcher, device: torch.device, dtypes: Sequence[KVDType], page_sizes: Sequence[int] = PAGE_SIZES
    ) -> None:
        super().__init__(device, dtypes, page_sizes)
        self._launch = launch

    def memory(self) -> Memory:
        """What the device has left, and what torch's allocator holds of it unused, less KEPT_BACK."""
        seen = super().memory()
        if self._device.type == "cpu":
            return seen
        module = torch.get_device_module(self._device)
        unused = module.memory_reserved(self._device) - module.memory_allocated(self._device)
        return Memory(max(0, seen.free + unused - KEPT_BACK), seen.total)

    def peak(self, run: Callable[[], None]) -> int | None:
        """Of what torch's allocator gives out, recorded graphs' memory included."""
        if self._device.type == "cpu":
            return None
        module = torch.get_device_module(self._device)
        module.synchronize(self._device)
        before = module.memory_allocated(self._device)
        module.reset_peak_memory_stats(self._device)
        run()
        module.synchronize(self._device)
        return max(0, int(module.max_memory_allocated(self._device)) - int(before))

    def copy_pages(self, kv: KV, group: int, source: np.ndarray, target: np.ndarray) -> KV:
        pairs = torch.from_numpy(np.stack((source, target)).astype(np.int32))
        if self._device.type != "cpu":  # or the host would wait here for the step that runs
            pairs = pairs.pin_memory().to(self._device, non_blocking=True)
        with torch.cuda.device_of(pairs):  # where Triton starts a kernel; nothing on the host
            for pages in (*kv[group][0], *kv[group][1]):
                for part in tensors(pages):
                    copy_pages(self._launch, part, pairs[0], pairs[1])
        return kv
