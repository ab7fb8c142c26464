"""The device `cpu`: the torch kit, with kernels of our own where the library is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from anychip_sdk.contract import (
    Bucket,
    Capabilities,
    Compiled,
    DeviceInfo,
    DType,
    NotSupported,
    Pending,
    Reader,
    Step,
    StepKey,
    StoredWeight,
    WeightSpec,
)
from anychip_sdk.kits.done import Done
from anychip_sdk.kits.torch import TorchDevice
from anychip_sdk.kits.torch.allocator import PAGE_SIZES
from anychip_sdk.kits.torch.device import as_contract_error
from anychip_sdk.kits.torch.scaled import formats
from anychip_sdk.kits.torch.weights import Weight

from anychip_cpu.buckets import recorded_bucket
from anychip_cpu.ipex_ops import IpexOps
from anychip_cpu.kernel_ops import KernelOps
from anychip_cpu.launch import Launcher
from anychip_cpu.native import kernels
from anychip_cpu.onednn_ops import DTYPES, CpuOps
from anychip_cpu.packed import kept_dtype
from anychip_cpu.quantized import FORMATS, IntExperts, TiedWeight
from anychip_cpu.recording import Recordings, UnrecordableError
from anychip_cpu.screened import screens_heads
from anychip_cpu.stored import maker, store


class CpuDevice(TorchDevice):
    def __init__(self, info: DeviceInfo, threads: int, *, ipex: bool = False) -> None:
        """ipex: take the ops of Intel Extension for PyTorch, and from the torch kit what it lacks."""
        torch.set_num_threads(threads)
        found = None if ipex else kernels()
        capabilities = Capabilities(
            weight_dtypes=DTYPES,
            kv_dtypes=(*DTYPES, *formats("cpu")),
            page_sizes=PAGE_SIZES,
            sliding_window=True,
            softcap=True,
            sinks=True,
            moe=True,
            device_feedback=True,
            step_tokens=512,  # activations of more leave the cache between two ops
            quantize=() if found is None else FORMATS,
            keeps_halves=found is not None,
            screens_heads={} if found is None else screens_heads(found),
            warm_up=False,  # a step is recorded while it runs
        )
        super().__init__(info, capabilities, "cpu")
        self.ops: CpuOps = IpexOps(self.communicator) if ipex else CpuOps(self.communicator)
        self._recordings: Recordings | None = None
        if found is not None:
            launch = Launcher()
            self.ops = KernelOps(self.communicator, found, launch)
            self._recordings = Recordings(launch, self.ops.attention)

    def bucket(self, exact: Bucket) -> Bucket:
        return exact if self._recordings is None else recorded_bucket(exact) or exact

    def compile(self, step: Step, key: StepKey) -> Compiled:
        recordings, eager = self._recordings, super().compile(step, key)
        if recordings is None or recorded_bucket(key.bucket) != key.bucket:
            return eager
        unrecordable = False

        def launch(weights: Any, kv: Any, state: Any, buffer: np.ndarray) -> tuple[Pending, Any, Any]:
            nonlocal unrecordable
            try:
                if not unrecordable:
                    return Done(recordings.run(step, key, weights, kv, state, buffer)), kv, state
            except UnrecordableError:
                unrecordable = True
            except (RuntimeError, IndexError, ValueError, MemoryError) as error:
                raise as_contract_error(error) from error
            return eager(weights, kv, state, buffer)

        return launch

    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Weight:
        if spec.quantize is not None:
            return self._pack_quantized(spec, read, shapes, dtype)
        embedding = spec.kind == "embedding"
        if isinstance(self.ops, KernelOps) and spec.kind in ("linear", "embedding", "experts"):
            kept = kept_dtype(spec, read, shapes, dtype)
            w = super().pack(spec, read, shapes, kept)
            if spec.head and dtype in self.capabilities.screens_heads and w.bias is None:
                return self.ops._pack_screened(w, widened=kept != dtype)
            return self.ops._pack(w, embedding=embedding, widened=kept != dtype)
        w = super().pack(spec, read, shapes, dtype)
        return self.ops._pack(w, embedding=embedding) if spec.kind in ("linear", "embedding") else w

    def stored_form(self, dtype: DType) -> str | None:
        """What oneDNN lays out is its own affair, and is not kept."""
        if not isinstance(self.ops, KernelOps):
            return None
        return f"{maker()} {self.ops._kernels.name.decode()}"

    def store(self, handle: Weight) -> StoredWeight:
        return store(handle) if isinstance(self.ops, KernelOps) else super().store(handle)

    def restore(self, stored: StoredWeight) -> Weight:
        return self.ops._restore(stored) if isinstance(self.ops, KernelOps) else super().restore(stored)

    def _pack_quantized(
        self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType
    ) -> Weight:
        """From float32, whatever the dtype: rounding to it first would add to the error."""
        if not isinstance(self.ops, KernelOps) or spec.quantize not in self.capabilities.quantize:
            known = ", ".join(self.capabilities.quantize) or "none: anychip-cpu runs without its kernels here"
            raise NotSupported(f"cpu has no weights in {spec.quantize}; it has {known}")
        if spec.kind not in ("linear", "embedding", "experts"):
            raise NotSupported(
                f"cpu quantises linear weights, experts and heads, and no {spec.kind}; leave quantize out"
            )
        plain = replace(spec, quantize=None, head=False)
        head = spec.head and dtype == "float32" and spec.quantize in self.capabilities.screens_heads
        packed = self.ops._quantize(super().pack(plain, read, shapes, "float32"), spec.quantize, head=head)
        if isinstance(packed, IntExperts) or spec.kind == "linear":
            return packed
        return TiedWeight(**vars(self.pack(plain, read, shapes, dtype)), head=packed)

    def close(self) -> None:
        if self._recordings is not None:
            self._recordings.forget()
