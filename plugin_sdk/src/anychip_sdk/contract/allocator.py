"""The allocator interface: the physical KV pages of one device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip_sdk.contract.checked import Checked
from anychip_sdk.contract.specs import KVLayout, KVSpec

KV = Any


@dataclass(frozen=True)
class Memory:
    """Bytes free and bytes in all, as the device measures them."""

    free: int
    total: int


class Allocator(Checked):
    """Which pages are in use is the core's affair; where they lie is the allocator's."""

    @abstractmethod
    def memory(self) -> Memory:
        """Measured now. A device that shares the host's memory reports what the host can still give."""

    def peak(self, run: Callable[[], None]) -> int | None:
        """Calls `run` once and returns the most bytes that were in use on the device while it ran, less those that
        were in use before. None where the device cannot tell, or shares the host's memory: `run` is not called then."""
        return None

    @abstractmethod
    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        """The page size and page counts this device takes for at most `budget` bytes.

        page_size: tokens, asked for by the user; None lets the device choose. max_len: longest sequence. slots:
        request slots, scratch included. No more pages than `slots - 1` sequences of `max_len` can use.
        Raises NotSupported for a page size it cannot do, and for a `spec.dtype` that the capabilities do not list."""

    @abstractmethod
    def allocate(self, layout: KVLayout) -> KV:
        """Raises OutOfMemory. Contents are arbitrary, but finite in page 0. What SCALED_KV names has its scales beside
        its pages, as the device likes them."""

    @abstractmethod
    def free(self, kv: KV) -> None:
        """Gives the memory back. `kv` must not be used again."""

    @abstractmethod
    def copy_pages(self, kv: KV, group: int, source: np.ndarray, target: np.ndarray) -> KV:
        """Copies page source[i] to target[i], int32 [N] each, in every layer of the group, with the scales of its
        vectors, in stream order. No page stands in both arrays, and none twice in `target`."""
