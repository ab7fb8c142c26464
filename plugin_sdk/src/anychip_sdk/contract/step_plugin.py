"""The whole-graph way in: a compiler owns the forward pass, the core keeps scheduler, pages and policy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from anychip_sdk.contract.allocator import Memory
from anychip_sdk.contract.checked import Checked
from anychip_sdk.contract.device import Capabilities, DeviceInfo, Pending, Reader
from anychip_sdk.contract.specs import Bucket, DType, KVLayout, KVSpec, SampleKind, StepKey


class StepPlugin(Checked):
    """Reads the same weight tree and gets the same buffer as an op plugin, and owns its KV cache."""

    info: DeviceInfo
    capabilities: Capabilities

    @abstractmethod
    def memory(self) -> Memory:
        """As `Allocator.memory`."""

    @abstractmethod
    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        """As `Allocator.layout`."""

    @abstractmethod
    def load(self, spec: Any, weights: Any, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> None:
        """spec: the core's ModelSpec, plain data. weights: its tree of WeightSpec. Raises NotSupported for an
        architecture it does not have."""

    @abstractmethod
    def allocate(self, layout: KVLayout) -> None:
        """Makes the KV cache. Raises OutOfMemory."""

    @abstractmethod
    def copy_pages(self, group: int, source: np.ndarray, target: np.ndarray) -> None:
        """As `Allocator.copy_pages`."""

    def bucket(self, exact: Bucket) -> Bucket:
        """As `Device.bucket`."""
        return exact

    def sample_kind(self, exact: SampleKind) -> SampleKind:
        """As `Device.sample_kind`."""
        return exact

    @abstractmethod
    def lend(self, words: int) -> np.ndarray:
        """As `Device.lend`."""

    @abstractmethod
    def run(self, key: StepKey, buffer: np.ndarray) -> Pending:
        """Launches one step over a lent buffer laid out by `anychip_sdk.contract.batch`."""

    @abstractmethod
    def close(self) -> None:
        """Frees everything."""
