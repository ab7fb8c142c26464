"""What a format of the weights or of the KV cache costs: perplexity on a text, and the distance of the predictions from
float32's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from anychip_sdk.contract import (
    QUANT_FORMATS,
    Batch,
    Bucket,
    Device,
    DeviceError,
    Sampled,
    SampleKind,
    StepKey,
    view,
    words,
)
from numpy.typing import NDArray

from anychip.engine.budget import make_budget
from anychip.engine.options import EngineOptions
from anychip.engine.weights import load_weights
from anychip.errors import ModelError, PlatformError, RequestError
from anychip.loading.checkpoint import open_checkpoint
from anychip.loading.tokenizer import Tokenizer
from anychip.models.registry import family
from anychip.platforms.selection import choose, open_device
from anychip.progress import Progress

REFERENCE = "float32"
HELD_OUT = "held_out.txt"
WINDOW = 1024
LOGITS = 2**26
"""Most logits of one window, 256 MiB in float32: models with a large vocabulary get shorter windows."""

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """`weights`: bytes. `kv`: bytes of KV cache a token. `perplexity`: per token. `kl`: mean over the tokens of
    KL(float32 || this format), in nats, over the whole vocabulary. `agreement`: share of the tokens whose most likely
    successor is float32's."""

    format: str
    weights: int
    kv: int
    tokens: int
    perplexity: float
    kl: float
    agreement: float


class Scorer:
    """A model on a device, asked for the logits of whole texts instead of tokens. Close it, or use it in a `with`."""

    def __init__(self, model: str, options: EngineOptions, *, progress: bool = False) -> None:
        with open_checkpoint(model, revision=options.revision) as checkpoint:
            self.tokenizer = Tokenizer.load(checkpoint.path, checkpoint.config)
            device = open_device(choose(options.device), options.threads, options.provider)
            try:
                if not isinstance(device, Device):
                    raise PlatformError(f"{device.info.name} runs whole steps, whose logits cannot be asked for")
                self._budget = make_budget(checkpoint, device, options)
                self._weights = load_weights(checkpoint, device, self._budget, progress=progress, cached=False)
            except BaseException:
                device.close()
                raise
            self._family = family(checkpoint.config)
        spec, layout = self._budget.spec, self._budget.layout
        self.window = min(WINDOW, spec.max_len, LOGITS // spec.vocab_size)
        pages = -(-self.window // layout.page_size) + 1  # page 0 is scratch
        self._layout = replace(layout, pages=(pages,) * len(layout.pages), slots=2)
        self._device = device
        self._step = self._score  # one object: a device may keep what it compiled no longer than the step lives
        with self._faults_named():
            self._kv = device.allocator.allocate(self._layout)
            self._state = device.state(self._layout.slots)

    @property
    def weights(self) -> int:
        return self._budget.weights

    @property
    def kv_bytes_per_token(self) -> int:
        return self._budget.kv_bytes_per_token

    def logits(self, ids: NDArray[np.int32]) -> Logits:
        """ids: [T], at most `window` -> [T, V], of the token after each. Raises PlatformError."""
        device, size = self._device, self._layout.page_size
        exact = Bucket(len(ids), 1, -(-len(ids) // size), len(ids), False, len(self._layout.pages))
        key = StepKey(device.bucket(exact), SampleKind(logprobs=self._budget.spec.vocab_size))
        shapes = device.ops.attention.plan_shapes(key.bucket)
        buffer = device.lend(words(key, shapes))
        batch = view(buffer, key, shapes)
        _fill(batch, ids, size)
        key = replace(key, static=device.ops.attention.plan(batch))
        with self._faults_named():
            step = device.compile(self._step, key)
            pending, self._kv, self._state = step(self._weights, self._kv, self._state, buffer)
            found: Logits = np.asarray(pending.get().top_logprobs)[: len(ids)]
        return found

    @contextmanager
    def _faults_named(self) -> Iterator[None]:
        try:
            yield
        except DeviceError as error:
            raise PlatformError(f"{self._device.info.name} failed: {error}; see anychip devices -v") from error

    def _score(self, weights: Any, kv: Any, state: Any, batch: Batch) -> tuple[Sampled, Any, Any]:
        """Logits go where top logprobs have their place: all of them are wanted, and nothing is sampled."""
        ops = self._device.ops
        batch = ops.attention.begin(batch)
        logits, kv = self._family.forward(ops, self._budget.spec, weights, batch, kv)
        return Sampled(tokens=batch.logit_rows, top_logprobs=logits), kv, state

    def close(self) -> None:
        self._device.allocator.free(self._kv)
        self._device.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _fill(batch: Batch, ids: NDArray[np.int32], page_size: int) -> None:
    """One sequence in slot 1, on the pages from 1 on."""
    T, places = len(ids), np.arange(len(ids), dtype=np.int32)
    batch.counts[:] = (T, 1, T, 0)
    batch.token_ids[:T] = ids
    batch.positions[:T] = batch.logit_rows[:T] = places
    batch.token_slot[:T] = batch.seq_slot[0] = 1
    batch.query_start[1:] = batch.seq_lens[0] = T
    batch.slot_mapping[:, :T] = places + page_size
    columns = -(-T // page_size)
    batch.page_table[:, 0, :columns] = np.arange(1, columns + 1)


def texts(path: str | None) -> list[str]:
    """The documents of a file, parted by form feeds; None: what the demo model has never seen. Raises RequestError."""
    if path is None:
        return _documents((resources.files("anychip") / "demo" / HELD_OUT).read_text(encoding="utf-8"))
    try:
        found = _documents(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"no UTF-8 at byte {error.start}"
        raise RequestError(f"cannot read the text {path}: {why}; give a file of UTF-8 text", "text") from error
    if not found:
        raise RequestError(f"the text {path} is empty; give one to measure on", "text")
    return found


def _documents(text: str) -> list[str]:
    return [part.strip() for part in text.split("\f") if part.strip()]


def formats(device_name: str, threads: int | None, provider: str | None = None) -> list[dict[str, str]]:
    """Options of every format that a device has beside float32, names for the same format once."""
    device = open_device(choose(device_name), threads, provider)
    claims = device.capabilities
    device.close()
    names = {QUANT_FORMATS[name]: name for name in reversed(claims.quantize)}
    dtypes: list[dict[str, str]] = [
        {"dtype": dtype} for dtype in claims.weight_dtypes if dtype not in (REFERENCE, "float64")
    ]
    kept: list[dict[str, str]] = [
        {"kv_dtype": dtype} for dtype in claims.kv_dtypes if dtype not in (REFERENCE, "float64")
    ]
    return dtypes + [{"quantize": name} for name in reversed(names.values())] + kept


def run(
    model: str, documents: list[str], chosen: list[dict[str, str]], *, progress: bool, **options: Any
) -> Iterator[Quality]:
    """float32 first, then each format beside it. Raises AnychipError."""
    base = {"dtype": REFERENCE, "max_num_seqs": 1, "prefix_caching": False, **options}
    asked = {_name(given): EngineOptions(**{**base, **given}) for given in chosen}
    for each in asked.values():
        _refuse_early(model, each)
    with Scorer(model, EngineOptions(**base), progress=progress) as reference:
        yield _measure(REFERENCE, reference, reference, documents, progress)
        for name, each in asked.items():
            with Scorer(model, each, progress=progress) as scorer:
                yield _measure(name, scorer, reference, documents, progress)


def _name(given: dict[str, str]) -> str:
    return " ".join(f"KV {value}" if option == "kv_dtype" else value for option, value in given.items())


def _refuse_early(model: str, options: EngineOptions) -> None:
    """Raises AnychipError for what cannot be loaded, before minutes go into the reference."""
    with open_checkpoint(model, revision=options.revision) as checkpoint:
        device = open_device(choose(options.device), options.threads, options.provider)
        try:
            make_budget(checkpoint, device, options)
        finally:
            device.close()


def _measure(name: str, scorer: Scorer, reference: Scorer, documents: list[str], progress: bool) -> Quality:
    surprise, kl, same, tokens = 0.0, 0.0, 0, 0
    with Progress(f"quality {name}", len(documents), unit="texts", shown=progress) as bar:
        for text in documents:
            for ids, targets in _windows(scorer.tokenizer.encode(text), scorer.window):
                mine = _log_softmax(scorer.logits(ids))
                theirs = mine if scorer is reference else _log_softmax(reference.logits(ids))
                surprise -= float(mine[np.arange(len(ids)), targets].sum(dtype=np.float64))
                kl += float((np.exp(theirs) * (theirs - mine)).sum(dtype=np.float64))
                same += int((mine.argmax(1) == theirs.argmax(1)).sum())
                tokens += len(ids)
            bar.advance()
    if not tokens:
        raise RequestError("the text has no two tokens in a row; give a longer one", "text")
    if not math.isfinite(surprise):
        raise ModelError(f"the model's logits in {name} are not finite, so there is nothing to measure")
    held = scorer.weights, scorer.kv_bytes_per_token
    return Quality(name, *held, tokens, math.exp(surprise / tokens), kl / tokens, same / tokens)


def _windows(ids: list[int], size: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """(tokens, the token after each), in windows that start afresh."""
    every = np.array(ids, np.int32)
    for start in range(0, len(every) - 1, size):
        part = every[start : start + size + 1]
        yield part[:-1], part[1:]


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
