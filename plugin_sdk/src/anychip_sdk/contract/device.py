"""The device: an open chip or mesh, and the step that runs on it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from anychip_sdk.contract.allocator import Allocator
from anychip_sdk.contract.batch import Batch
from anychip_sdk.contract.checked import Checked
from anychip_sdk.contract.communicator import Communicator
from anychip_sdk.contract.errors import NotSupported
from anychip_sdk.contract.ops import Ops, Sampled
from anychip_sdk.contract.specs import Bucket, DType, KVDType, Layer, SampleKind, StepKey, WeightSpec

Handle = Any
KV = Any
State = Any


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """`name` as `--device` takes it ("cpu", "cuda:0"); `description` for people; `details` for bug reports."""

    name: str
    description: str
    details: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a device claims. The conformance suite tests every claim and every refusal.

    `weight_dtypes`, `kv_dtypes`: first is preferred. Unless the user asks for another, KV is kept in the weights'
    dtype; each is read and written with activations in any weight dtype. `sinks`: `Attention.attend_with_sinks` is
    there. `sampling`: False where `Ops.sample` is refused; steps return their logits [R, V] as `Sampled.top_logprobs`
    then, and the host samples. `device_feedback`: a step may take tokens that the step before it sampled
    (`Batch.feed`); it needs `sampling`. `asynchronous`: a compiled step returns before its result is there, so that the
    core lays out and launches the next step meanwhile; it needs `device_feedback`, and `Device.lend` must not give a
    buffer again before the result after the next was asked for. `batch_invariant`: a request's result does not depend
    on its batch. `step_tokens`: a step of more tokens is no faster per token; the engine's budget unless the user sets
    one. `quantize`: the names of QUANT_FORMATS that `Device.pack` takes in `WeightSpec.quantize`. `keeps_halves`: in
    float32, weights stay in the 16 bits that the checkpoint has them in, as `WeightSpec.halves` says, and the core
    counts their memory so. `screens_heads`: a head (`WeightSpec.head`) lies there a second time for steps in float32,
    more roughly, for `Ops.greedy_logits`. The keys are "float32" for heads that are not quantised, and names in
    `quantize`; the values that copy's bits a number, of which the core counts the memory. `warm_up`: False where the
    first step of a shape takes hardly longer than the next one, so that running each ahead would only delay the
    start."""

    weight_dtypes: tuple[DType, ...]
    kv_dtypes: tuple[KVDType, ...]
    page_sizes: tuple[int, ...] = (16,)
    max_head_dim: int = 256
    sliding_window: bool = False
    softcap: bool = False
    sinks: bool = False
    moe: bool = False
    sampling: bool = True
    max_logprobs: int = 20
    device_feedback: bool = False
    asynchronous: bool = False
    batch_invariant: bool = False
    max_world_size: int = 1
    step_tokens: int = 2048
    quantize: tuple[str, ...] = ()
    keeps_halves: bool = False
    screens_heads: Mapping[str, int] = field(default_factory=dict)
    warm_up: bool = True


class Reader(Protocol):
    """Reads one slice of one checkpoint tensor; fewer slices than axes take the remaining axes whole."""

    def __call__(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray: ...


@dataclass(frozen=True)
class StoredWeight:
    """A weight handle as plain data, which the core keeps in a file. `facts`: what JSON can hold. `arrays`: contiguous
    arrays in the host's memory; only their bytes are kept."""

    facts: Any
    arrays: tuple[np.ndarray, ...]


class Pending(Protocol):
    """The result of a launched step. Its copy to the host is queued in stream order, so a later step cannot
    overwrite it."""

    def get(self) -> Sampled:
        """Waits. Arrays are numpy. Raises DeviceError or OutOfMemory if the step failed."""


Step = Callable[[Any, KV, State, Batch], tuple[Sampled, KV, State]]
"""(weights, kv, state, batch) -> result, kv, state, over the device's arrays."""

Compiled = Callable[[Any, KV, State, np.ndarray], tuple[Pending, KV, State]]
"""(weights, kv, state, lent buffer) -> pending result, kv, state."""


class Device(Checked):
    """An open chip or mesh. `rank` and `size`: this process's place; a mesh driven by one process has size 1."""

    info: DeviceInfo
    capabilities: Capabilities
    ops: Ops
    allocator: Allocator
    communicator: Communicator
    rank: int = 0
    size: int = 1

    @abstractmethod
    def pack(self, spec: WeightSpec, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> Handle:
        """Builds an opaque weight handle in `dtype` (norms, rope and vectors in float32), reading only the slices
        this rank needs. shapes: of every tensor named in the spec, as in the checkpoint. Raises NotSupported for a
        dtype or a `spec.quantize` that the capabilities do not list."""

    def stack(self, specs: Sequence[Layer], weights: list[Any]) -> Any:
        """What `Ops.layers` gets for the per-layer weights; the list itself by default."""
        return weights

    def pack_layers(
        self,
        specs: Sequence[Layer],
        trees: Sequence[Mapping[str, WeightSpec]],
        read: Reader,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: DType,
    ) -> Any:
        """What `Ops.layers` gets, from the checkpoint: each weight as `pack` makes it, then `stack`. Override it to put
        every layer into its place in a larger array, so that no weight is there twice."""
        packed = [{name: self.pack(spec, read, shapes, dtype) for name, spec in tree.items()} for tree in trees]
        return self.stack(specs, packed)

    def stored_form(self, dtype: DType) -> str | None:
        """Names the form that `pack` gives weights in `dtype`, by all that it depends on but the spec and the values:
        the code that makes it, the instruction set, rank and size. The core keeps handles in a file then, gives those
        of a file with the same name to `restore`, and calls `pack` and `stack` instead of `pack_layers`. None, the
        default: packing is quick, or cannot be kept."""
        return None

    def store(self, handle: Handle) -> StoredWeight:
        """What `restore` makes the handle of again, here or in another process. The arrays may be views of it. Raises
        NotSupported where there is no `stored_form`."""
        raise NotSupported(f"{self.info.name} stores no weights: it has no stored_form")

    def restore(self, stored: StoredWeight) -> Handle:
        """A handle that gives the very results of the one that was stored. The arrays are bytes (uint8, one axis) that
        are mapped from a file, each from a multiple of 4096 on; the handle may keep views of them. Raises
        ContractError for what `store` never gave, NotSupported where there is no `stored_form`."""
        raise NotSupported(f"{self.info.name} restores no weights: it has no stored_form")

    @abstractmethod
    def state(self, slots: int) -> State:
        """An object with `last_token`, int32 [slots], zeroed."""

    def bucket(self, exact: Bucket) -> Bucket:
        """The same object: run at exact shapes. A larger one: padded to it, compiled once. No length of it is smaller,
        a larger step's is no smaller than a smaller one's, and a bucket's own bucket is equal to it."""
        return exact

    def sample_kind(self, exact: SampleKind) -> SampleKind:
        """Which sampling code serves a step: the one asked for, or one that can do more (`filters` where none are
        wanted, longer lists, more alternatives). A device that compiles has few of them."""
        return exact

    @abstractmethod
    def lend(self, words: int) -> np.ndarray:
        """A zeroed int32 host buffer [words]. The core fills it and hands it back with the compiled step; from
        then it is the device's until the step is done."""

    @abstractmethod
    def compile(self, step: Step, key: StepKey) -> Compiled:
        """Eager: call it. Capturing: warm up on zeros and record. Tracing: jit, donating kv and state. What is kept for
        a step may go when the step does, so who calls keeps the step for as long as it runs."""

    def warm(self, keys: Sequence[StepKey]) -> None:
        """Told once, before the first request, which keys will come. The core then runs each of them on a batch of
        zeros; a device may compile them side by side."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the device holds. Further calls are undefined."""
