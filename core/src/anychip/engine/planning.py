"""What can be told of a device that is not here: whether a model fits, and how long its steps may take."""

from __future__ import annotations

from dataclasses import dataclass

from anychip_sdk.contract import Bucket, NotSupported, OutOfMemory, Planned, SampleKind, StepKey

from anychip.engine.budget import Budget
from anychip.engine.estimate import Size, Work, size_of, step_seconds
from anychip.engine.weights import load_weights
from anychip.errors import CapacityError
from anychip.loading.checkpoint import Checkpoint
from anychip.models.registry import family
from anychip.progress import Progress
from anychip.runner.executor import OpsExecutor
from anychip.sizes import gib


@dataclass(frozen=True)
class Outlook:
    """Of a model on a planned device. Seconds are estimates; `compiled`: bytes of one chip's memory that each kind of
    step takes as compiled, or, in words, why nothing was compiled."""

    requests: int
    decode: float
    prefill: float
    compiled: dict[str, int] | str


def outlook(checkpoint: Checkpoint, planned: Planned, budget: Budget, max_num_seqs: int, *, progress: bool) -> Outlook:
    """Of as many requests as fit at their longest. Raises CapacityError where a compiled step does not fit."""
    requests = min(budget.cache.concurrent, max_num_seqs)
    size = _size(budget)

    def seconds(tokens: int, seqs: int) -> float:
        return step_seconds(budget.spec, size, planned.rates, Work(tokens, seqs, budget.max_model_len))

    compiled = _compiled(checkpoint, planned, budget, min(max_num_seqs, budget.step_tokens), progress)
    return Outlook(requests, seconds(requests, requests), seconds(budget.step_tokens, 1), compiled)


def _size(budget: Budget) -> Size:
    layout = budget.layout
    return size_of(
        budget.spec,
        budget.tree,
        budget.shapes,
        weights=budget.weights,
        item=budget.embedding_item,
        kv={group.window: layout.page_bytes(g) // layout.page_size for g, group in enumerate(layout.spec.groups)},
    )


def _compiled(
    checkpoint: Checkpoint, planned: Planned, budget: Budget, seqs: int, progress: bool
) -> dict[str, int] | str:
    """The largest steps, as the device's compiler makes them."""
    device, layout = planned.device, budget.layout
    if planned.no_compiler:
        return planned.no_compiler
    weights = load_weights(checkpoint, device, budget, progress=False, cached=False)
    executor = OpsExecutor(device, family(checkpoint.config), budget.spec, weights, layout)
    pages, groups = -(-budget.max_model_len // layout.page_size), len(layout.pages)
    steps = {
        "decode": Bucket(seqs, seqs, pages, seqs, decode=True, groups=groups),
        "prefill": Bucket(budget.step_tokens, seqs, pages, seqs, decode=False, groups=groups),
    }
    found = {}
    with Progress("compiling steps", len(steps), shown=progress) as bar:
        for name, bucket in steps.items():
            key = StepKey(device.bucket(bucket), SampleKind(filters=True), executor.asynchronous)
            try:
                found[name] = executor.compile_with(planned.compile, key)
            except (OutOfMemory, NotSupported) as error:
                raise CapacityError(
                    f"{checkpoint.name} does not fit {device.info.name}: its {name} step, with weights of "
                    f"{gib(budget.weights)} and a KV cache of {gib(budget.cache.size)}: {error}"
                ) from error
            bar.advance()
    return found
