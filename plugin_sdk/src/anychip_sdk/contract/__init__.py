"""The contract between the core and a chip. Everything public is listed in `__all__`."""

from __future__ import annotations

from anychip_sdk.contract.allocator import Allocator, Memory
from anychip_sdk.contract.attention import Attention
from anychip_sdk.contract.batch import FLOAT_COLUMNS, ROW_WORDS, Batch, Row, Shapes, view, words
from anychip_sdk.contract.communicator import Communicator
from anychip_sdk.contract.device import Capabilities, Compiled, Device, DeviceInfo, Pending, Reader, Step, StoredWeight
from anychip_sdk.contract.errors import ContractError, DeviceError, NotSupported, OutOfMemory
from anychip_sdk.contract.hooks import ENTRY_POINT_GROUP, hookimpl
from anychip_sdk.contract.ops import NO_TOKEN, Ops, Sampled
from anychip_sdk.contract.platform import Absent, Broken, Found, Manifest, Planned, Platform, Provider, Rates
from anychip_sdk.contract.specs import (
    QUANT_FORMATS,
    SCALED_KV,
    Activation,
    AttentionSpec,
    Bucket,
    DType,
    KVDType,
    KVLayout,
    KVSpec,
    Layer,
    MoESpec,
    Paged,
    QuantFormat,
    SampleKind,
    StepKey,
    WeightKind,
    WeightSpec,
)
from anychip_sdk.contract.step_plugin import StepPlugin
from anychip_sdk.contract.version import CONTRACT_VERSION, Version

__all__ = [
    "CONTRACT_VERSION", "ENTRY_POINT_GROUP", "FLOAT_COLUMNS", "NO_TOKEN", "QUANT_FORMATS", "ROW_WORDS", "SCALED_KV",
    "Absent", "Activation", "Allocator", "Attention", "AttentionSpec", "Batch", "Broken", "Bucket", "Capabilities",
    "Communicator", "Compiled", "ContractError", "DType", "Device", "DeviceError", "DeviceInfo", "Found", "KVDType",
    "KVLayout", "KVSpec", "Layer", "Manifest", "Memory", "MoESpec", "NotSupported", "Ops", "OutOfMemory", "Paged",
    "Pending", "Planned", "Platform", "Provider", "QuantFormat", "Rates", "Reader", "Row", "SampleKind", "Sampled",
    "Shapes", "Step", "StepKey", "StepPlugin", "StoredWeight", "Version", "WeightKind", "WeightSpec", "hookimpl",
    "view", "words",
]  # fmt: skip
