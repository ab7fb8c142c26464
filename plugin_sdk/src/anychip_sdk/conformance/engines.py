"""The core's engine on a device under test, with doors where faults are put in. The core is imported when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anychip_sdk.conformance.models import POISON
from anychip_sdk.contract import Device, StepPlugin, WeightSpec

if TYPE_CHECKING:
    from anychip.engine.core import EngineCore, Event
    from anychip.request import Request
    from anychip.sampling_params import SamplingParams

OpsWrap = Callable[[Any], Any]


@dataclass
class Done:
    """A request that ended: its tokens, their logprobs where asked for, and why it failed if it did."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[tuple[float, float]] = field(default_factory=list)
    """of each prompt token but the first: its logprob, and the best one's"""
    error: str | None = None
    cached: int = 0
    preemptions: int = 0


class Engine:
    """A checkpoint on a device, and no tokenizer: token ids in, token ids out. Closes the device with it.

    wrap: what takes the place of the device's ops, for faults. poison: the embedding of token POISON is NaN."""

    def __init__(
        self, checkpoint: Path, device: Device | StepPlugin, *, wrap: OpsWrap | None = None, poison: bool = False,
        **options: Any,
    ) -> None:  # fmt: skip
        from anychip.engine.budget import make_budget
        from anychip.engine.core import EngineCore
        from anychip.engine.options import EngineOptions
        from anychip.loading.checkpoint import open_checkpoint

        with open_checkpoint(checkpoint) as opened:
            asked = EngineOptions(**{"kv_pages": 65, "max_num_seqs": 8, **options})
            budget = make_budget(opened, device, asked)
            self.executor = _Door(_executor(opened, device, budget, wrap, poison))
            self.core: EngineCore = EngineCore(
                self.executor, budget.layout, asked, step_tokens=budget.step_tokens,
                max_model_len=budget.max_model_len, vocab_size=budget.spec.vocab_size, eos_ids=frozenset(),
            )  # fmt: skip
        self._count = 0

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams], salt: str = ""
    ) -> list[Done]:
        """All at once, to the end."""
        each = params if isinstance(params, Sequence) else [params] * len(prompts)
        requests = [self.add(p, one, salt) for p, one in zip(prompts, each, strict=True)]
        return self.finish(requests)

    def add(self, prompt: Sequence[int], params: SamplingParams, salt: str = "") -> Request:
        self._count += 1
        made = self.core.make(str(self._count), prompt, params, salt=salt)
        self.core.add(made)
        return made[0]

    def finish(self, requests: Sequence[Request]) -> list[Done]:
        """Steps until nothing is left to do."""
        done = {id(r): Done() for r in requests}
        for _ in range(10_000):
            if not self.core.has_work:
                break
            for event in self.core.step():
                if id(event.request) in done:
                    _book(done[id(event.request)], event)
        else:
            raise AssertionError("the engine did not come to an end within 10,000 steps")
        for r in requests:
            done[id(r)].cached, done[id(r)].preemptions = r.num_cached, r.preemptions
        return [done[id(r)] for r in requests]

    def pages_in_use(self) -> list[int]:
        return [pool.in_use for pool in self.core.kv.pools]

    def check_idle(self) -> None:
        """Raises AssertionError unless every page is back and all books agree."""
        self.core.scheduler.check_integrity()
        assert not any(self.pages_in_use()), f"pages still in use after the last request: {self.pages_in_use()}"

    def close(self) -> None:
        self.core.close()


def _book(done: Done, event: Event) -> None:
    if event.error is not None:
        done.error = event.error
    if event.token is not None:
        done.tokens.append(event.token)
    if event.logprobs is not None:
        done.logprobs.append(event.logprobs.chosen.logprob)
    done.prompt_logprobs += [(t.chosen.logprob, t.top[0].logprob) for t in event.prompt_logprobs if t.top]


class _Door:
    """An executor with a door for faults: `before` hears the number of each launch, `before_copy` of each call that
    copies pages."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.before: Callable[[int], None] = lambda number: None
        self.before_copy: Callable[[int], None] = lambda number: None
        self.launches = self.copies = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def launch(self, key: Any, buffer: np.ndarray, exact: bool) -> Any:
        self.launches += 1
        self.before(self.launches)
        return self._inner.launch(key, buffer, exact)

    def copy_pages(self, group: int, source: np.ndarray, target: np.ndarray) -> None:
        self.copies += 1
        self.before_copy(self.copies)
        self._inner.copy_pages(group, source, target)


def _executor(checkpoint: Any, device: Device | StepPlugin, budget: Any, wrap: OpsWrap | None, poison: bool) -> Any:
    """As the core loads a model, with the doors open."""
    from anychip.models.registry import family
    from anychip.runner.executor import OpsExecutor, StepExecutor

    kind = family(checkpoint.config)
    tree = kind.weights(budget.spec)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}

    def read(name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        array: np.ndarray = checkpoint.read(name, index)
        first = index[0].start or 0 if index else 0
        if poison and "embed_tokens" in name and first <= POISON < first + len(array):
            array = np.array(array)
            array[POISON - first] = np.nan
        return array

    if isinstance(device, StepPlugin):
        device.load(budget.spec, tree, read, shapes, budget.dtype)
        return StepExecutor(device, budget.layout)
    if wrap is not None:
        device.ops = wrap(device.ops)
    for attention in {layer.attention for layer in budget.spec.layers}:
        device.ops.attention.supports(attention)
    weights = _map(
        {k: v for k, v in tree.items() if k != "layers"}, lambda w: device.pack(w, read, shapes, budget.dtype)
    )
    weights["layers"] = device.pack_layers(budget.spec.layers, tree["layers"], read, shapes, budget.dtype)
    return OpsExecutor(device, kind, budget.spec, weights, budget.layout)


def _map(tree: Any, leaf: Callable[[WeightSpec], Any]) -> Any:
    if isinstance(tree, WeightSpec):
        return leaf(tree)
    if isinstance(tree, dict):
        return {key: _map(child, leaf) for key, child in tree.items()}
    return [_map(child, leaf) for child in tree]
