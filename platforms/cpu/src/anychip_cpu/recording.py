"""A step recorded as a list of kernel calls, and its replay."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from ctypes import Structure
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from anychip_sdk.contract import Attention, Batch, DeviceError, Sampled, Shapes, Step, StepKey, view, words
from torch import Tensor

from anychip_cpu.launch import Launcher
from anychip_cpu.memory import Pool
from anychip_cpu.native import Reads, Stretch, run

TOKENS, SEQUENCES, ROWS = 0, 1, 2
"""Places in `Batch.counts`."""
FIELDS = {
    TOKENS: ("token_ids", "positions", "token_seq", "token_slot", "feed", "slot_mapping"),
    SEQUENCES: ("seq_lens", "seq_slot", "page_table"),
    ROWS: ("logit_rows", "row_slot", "sampling"),
}
"""Arrays of a batch with so many entries in their first axis, but for the groups of `slot_mapping` and `page_table`."""

KEPT = 64
"""Recordings; of more the one used longest ago is dropped."""

Source = Callable[[], Any]
"""Makes an argument of a kit function for the step at hand."""


class UnrecordableError(DeviceError):
    """A replay could not give what the step gave: it used something that neither its batch nor the device's ops made,
    or it does not work in place."""


class Recordings:
    """Of all steps of a device, by their keys."""

    def __init__(self, launch: Launcher, attention: Attention) -> None:
        self._launch, self._attention = launch, attention
        self._pool = Pool()
        self._kept: OrderedDict[tuple[Step, StepKey], Recording] = OrderedDict()

    def run(self, step: Step, key: StepKey, weights: Any, kv: Any, state: Any, buffer: np.ndarray) -> Sampled:
        """Replays the step, or records it, and gives its result on the host. What was recorded over another cache,
        state or set of weights is recorded anew; what fails while it is recorded is not kept. Raises
        UnrecordableError."""
        recording = self._kept.get((step, key))
        if recording is not None and recording.serves(weights, kv, state):
            self._kept.move_to_end((step, key))
            return recording.replay(buffer)
        self._kept.pop((step, key), None)
        shapes = self._attention.plan_shapes(key.bucket)
        recording = Recording(step, key, shapes, self._pool, self._attention)
        sampled = recording.record(weights, kv, state, buffer, self._launch)
        self._kept[step, key] = recording
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return sampled

    def last(self, wanted: Callable[[StepKey], bool]) -> Recording:
        """The one used last whose key is wanted; for measurements. Raises StopIteration where there is none."""
        return next(recording for (_, key), recording in reversed(self._kept.items()) if wanted(key))

    def forget(self) -> None:
        self._kept.clear()


class Recording:
    """Runs a step's ops once, on memory that stays, and keeps what they called.

    The recording is the first run of the step, too: each kernel runs when it is recorded. A replay copies the batch to
    where the first one lay and walks the list; kernels read there how many rows are real. What has no kernel is called
    again, on the real rows, between two stretches of kernels."""

    def __init__(self, step: Step, key: StepKey, shapes: Shapes, pool: Pool, attention: Attention) -> None:
        self._step, self._pool, self._attention = step, pool, attention
        self._buffer = np.zeros(words(key, shapes), np.int32)
        self._batch = view(torch.from_numpy(self._buffer), key, shapes)
        self._counts = self._buffer[:4]
        self._fields = {name: kind for kind, names in FIELDS.items() for name in names}
        self._kinds: dict[int, int] = {}  # by the storage's address, of what the ops made
        self._calls: list[Stretch | Callable[[], None]] = []
        self._threads = torch.get_num_threads()
        self._real: Batch | None = None
        self._sampled: dict[str, np.ndarray] = {}

    @torch.inference_mode()
    def record(self, weights: Any, kv: Any, state: Any, buffer: np.ndarray, launch: Launcher) -> Sampled:
        """Raises what the ops raise, and UnrecordableError; the recording is of no use then."""
        self._buffer[:] = buffer
        launch.recorder = self
        try:
            sampled, after, state_after = self._step(weights, kv, state, self._batch)
        finally:
            launch.recorder = None
        if after is not kv or state_after is not state:
            raise UnrecordableError("a step gave back another KV cache or state")
        self._over = (weights, kv, state)
        self._sampled = {name: self._alias(x).numpy() for name, x in vars(sampled).items() if x is not None}
        return self._result()

    def stretches(self) -> list[Stretch]:
        return [call for call in self._calls if isinstance(call, Stretch)]

    def serves(self, weights: Any, kv: Any, state: Any) -> bool:
        return all(a is b for a, b in zip(self._over, (weights, kv, state), strict=True))

    def replay(self, buffer: np.ndarray) -> Sampled:
        self._buffer[:] = buffer
        self._real = None
        for call in self._calls:
            call()
        return self._result()

    def _result(self) -> Sampled:
        """On the host. Copies: the next replay, of this recording or another, writes there again."""
        rows = int(self._counts[ROWS])
        return Sampled(**{name: x[:rows].copy() for name, x in self._sampled.items()})

    # What the launcher asks for while the step is recorded.

    def run(self, kernel: int, arguments: Structure, reads: Reads | None) -> None:
        run(kernel, arguments, self._threads)
        stretch = self._calls[-1] if self._calls else None
        if not isinstance(stretch, Stretch):
            stretch = Stretch(self._threads)
            self._calls.append(stretch)
        stretch.add(kernel, arguments, reads)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor | None) -> Tensor:
        x = self._pool.empty(shape, dtype)
        address = x.untyped_storage().data_ptr()
        if like is None:
            self._kinds.pop(address, None)
        else:
            self._kinds[address] = self._kind(like)
        return x

    def live(self, x: Tensor) -> int:
        return self._counts[self._kind(x) :].ctypes.data

    def kit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Its result, with as many rows as the recorded shapes have; the first are those of the step at hand."""
        sources = [self._source(a) for a in args]
        named = {name: self._source(a) for name, a in kwargs.items()}
        kinds = [k for x in _tensors(args) if (k := self._known(x)) is not None]
        kind = kinds[-1] if kinds else TOKENS

        def call() -> Any:
            return function(*(make() for make in sources), **{name: make() for name, make in named.items()})

        result = call()
        room = {id(x): self._room(x, kind) for x in _tensors(result)}
        made = [self._alias(room[id(x)]) for x in _tensors(result)]

        def keep(result: Any) -> None:
            for to, x in zip(made, _tensors(result), strict=True):
                to[: len(x)].copy_(x)

        keep(result)
        self._calls.append(torch.inference_mode()(lambda: keep(call())))
        return _map(result, lambda x: room[id(x)])

    def _room(self, x: Tensor, kind: int) -> Tensor:
        bucket = self._batch.key.bucket
        rows = {TOKENS: bucket.tokens, SEQUENCES: bucket.seqs, ROWS: bucket.rows}[kind]
        if len(x) != self._counts[kind]:
            raise UnrecordableError(f"an op gave {len(x)} rows for {self._counts[kind]}")
        room = self._pool.empty((rows, *x.shape[1:]), x.dtype)
        self._kinds[room.untyped_storage().data_ptr()] = kind
        return room

    def _alias(self, x: Tensor) -> Tensor:
        """The same numbers, for as long as the recording lives."""
        again = self._pool.again(x)
        if again is None and self._field(x) is None:
            raise UnrecordableError("a step gave back a tensor that no op of the device made")
        return x if again is None else again

    def _field(self, x: Tensor) -> str | None:
        """Which array of the batch x is, or is a part of."""
        for name in self._fields:
            array = getattr(self._batch, name)
            if x.numel() and array.data_ptr() <= x.data_ptr() < array.data_ptr() + array.nbytes:
                return name
        return None

    def _known(self, x: Tensor) -> int | None:
        """Which of the counts says how many rows of x are real; None for what does not come from the batch."""
        if self._pool.again(x) is not None:
            return self._kinds.get(x.untyped_storage().data_ptr())
        name = self._field(x)
        return None if name is None else self._fields[name]

    def _kind(self, x: Tensor) -> int:
        kind = self._known(x)
        if kind is None:
            raise UnrecordableError("an op was given a tensor that no op of the device made")
        return kind

    def _source(self, value: Any) -> Source:
        if isinstance(value, Batch):
            return self._real_batch
        if isinstance(value, tuple):
            parts = [self._source(v) for v in value]
            return lambda: tuple(make() for make in parts)
        if not isinstance(value, Tensor):
            return lambda: value
        again, kind = self._pool.again(value), self._known(value)
        if kind is None:
            return lambda: value
        x = value if again is None else again
        return lambda: x[: self._counts[kind]]

    def _real_batch(self) -> Batch:
        """The batch at its exact shapes, begun. Made when the first kit function of a step asks."""
        if self._real is None:
            tokens, sequences, rows = self._counts[:3].tolist()
            b = self._batch
            cut = {name: getattr(b, name)[:n] for n, kind in ((tokens, TOKENS), (sequences, SEQUENCES), (rows, ROWS))
                   for name in FIELDS[kind] if name not in ("slot_mapping", "page_table")}  # fmt: skip
            exact = replace(b.key.bucket, tokens=tokens, seqs=sequences, rows=rows)
            self._real = self._attention.begin(
                replace(
                    b, **cut, key=replace(b.key, bucket=exact), query_start=b.query_start[: sequences + 1],
                    slot_mapping=b.slot_mapping[:, :tokens], page_table=b.page_table[:, :sequences],
                )
            )  # fmt: skip
        return self._real


def _tensors(value: Any) -> Iterator[Tensor]:
    """Of a result or of arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, Sampled):
        yield from _tensors(tuple(vars(value).values()))


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map(part, change) for part in value)
    if isinstance(value, Sampled):
        return Sampled(**{name: _map(part, change) for name, part in vars(value).items()})
    return value
