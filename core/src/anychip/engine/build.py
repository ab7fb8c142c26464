"""From a model's name to a running engine: checkpoint, device, weights, KV cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anychip_sdk.contract import Device, StepPlugin

from anychip.engine.budget import Budget, fitted, make_budget
from anychip.engine.core import EngineCore
from anychip.engine.options import EngineOptions
from anychip.engine.peak import measured_peak
from anychip.engine.weights import faults_named, load_weights
from anychip.errors import ModelError, RequestError
from anychip.loading.chat_template import ChatTemplate, no_template
from anychip.loading.checkpoint import Checkpoint, open_checkpoint
from anychip.loading.tokenizer import Tokenizer
from anychip.models.registry import family
from anychip.platforms.op_table import op_table, refuse_fallback, refuse_reference
from anychip.platforms.selection import Choice, choose, open_device
from anychip.progress import Progress
from anychip.runner.executor import Executor, OpsExecutor, StepExecutor
from anychip.runner.warm_up import Limits, expected_keys, warm_up
from anychip.sampling_params import SamplingParams


@dataclass(frozen=True)
class Built:
    """An engine and what its fronts need beside it."""

    core: EngineCore
    name: str
    tokenizer: Tokenizer | None
    chat_template: ChatTemplate | None
    generation_config: dict[str, Any]
    budget: Budget
    choice: Choice

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation in the model's own words, up to the assistant's turn."""
        words, template = self.tokenizer, self.chat_template
        if template is None or words is None:
            raise no_template(self.name)
        if isinstance(messages, str) or not all(isinstance(m, Mapping) for m in messages):
            wanted = '{"role": "user", "content": "..."}'
            raise RequestError(f"messages is {messages!r:.60}; expected a list of maps like {wanted}", "messages")
        text = template.render(messages, special_tokens=words.special_tokens)
        return words.encode(text, add_special_tokens=False)


def build(
    model: str | os.PathLike[str], options: EngineOptions, *, tokenizer: bool = True, progress: bool = False
) -> Built:
    """Raises AnychipError, in one line, for whatever cannot work. tokenizer: False serves token ids only."""
    with open_checkpoint(model, revision=options.revision) as checkpoint:
        words = Tokenizer.load(checkpoint.path, checkpoint.config) if tokenizer else None
        template = ChatTemplate(words.chat_template) if words and words.chat_template else None
        eos_ids = _eos_ids(checkpoint, words)
        _check_defaults(checkpoint)
        choice = choose(options.device)
        device = open_device(choice, options.threads, options.provider)
        try:
            budget = make_budget(checkpoint, device, options)
            refuse_if_strict(device, options, budget)
            if words is not None:
                words.name_unembedded(checkpoint.name, budget.spec.vocab_size)
            executor, budget = _load(checkpoint, device, budget, options, progress)
            if options.warm_up and device.capabilities.warm_up:
                with faults_named(checkpoint, device):
                    _warm_up(executor, budget, options, progress)
        except BaseException:
            device.close()
            raise
        core = EngineCore(
            executor,
            budget.layout,
            options,
            step_tokens=budget.step_tokens,
            max_model_len=budget.max_model_len,
            vocab_size=budget.spec.vocab_size,
            # One beyond the vocabulary cannot be sampled, and min_tokens has no logit of it to forbid.
            eos_ids=frozenset(i for i in eos_ids if i < budget.spec.vocab_size),
        )
        return Built(core, checkpoint.name, words, template, dict(checkpoint.generation_config), budget, choice)


def refuse_if_strict(device: Device | StepPlugin, options: EngineOptions, budget: Budget) -> None:
    """With `strict`: raises PlatformError where an op runs on reference code, for this model if not for all. A step
    plugin owns its graph."""
    if not options.strict or not isinstance(device, Device):
        return
    refuse_reference(op_table(device), device.info.name)
    for spec in dict.fromkeys(layer.attention for layer in budget.spec.layers):
        refuse_fallback(
            device.ops.attention.fallback(spec, budget.spec.num_heads, budget.layout.spec, budget.dtype),
            device.info.name,
        )


def _load(
    checkpoint: Checkpoint, device: Device | StepPlugin, budget: Budget, options: EngineOptions, progress: bool
) -> tuple[Executor, Budget]:
    """-> what runs steps, and the budget, measured by now where the device can measure."""
    with faults_named(checkpoint, device):
        if isinstance(device, StepPlugin):
            device.load(budget.spec, budget.tree, checkpoint.read, budget.shapes, budget.dtype)
            return StepExecutor(device, budget.layout), budget
        weights = load_weights(checkpoint, device, budget, progress=progress, cached=options.weight_cache)
        kind = family(checkpoint.config)
        peak = measured_peak(device, kind, weights, budget, options.max_num_seqs)
        if peak is not None:
            budget = fitted(budget, device, options, peak)
        return OpsExecutor(device, kind, budget.spec, weights, budget.layout), budget


def _warm_up(executor: Executor, budget: Budget, options: EngineOptions, progress: bool) -> None:
    """Compiles or records every step that requests can need, where the device does either."""
    layout = budget.layout
    limits = Limits(
        tokens=budget.step_tokens,
        seqs=min(options.max_num_seqs, budget.step_tokens),
        pages=-(-budget.max_model_len // layout.page_size),
        groups=len(layout.pages),
    )
    keys = expected_keys(executor, limits)
    if keys:
        with Progress("preparing steps", len(keys), shown=progress) as bar:
            for _ in warm_up(executor, keys):
                bar.advance()


def _eos_ids(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> frozenset[int]:
    """generation_config.json's end tokens, else config.json's, else the tokenizer's."""
    for source in (checkpoint.generation_config, checkpoint.config):
        if (ids := source.get("eos_token_id")) is not None:
            ids = ids if isinstance(ids, list) else [ids]
            if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
                raise ModelError(f"{checkpoint.name}: eos_token_id is {ids!r}; expected a token id or a list of them")
            return frozenset(ids)
    return frozenset(tokenizer.eos_token_ids) if tokenizer else frozenset()


def _check_defaults(checkpoint: Checkpoint) -> None:
    """A default out of range is the checkpoint's fault, not that of the first request."""
    try:
        SamplingParams.from_generation_config(checkpoint.generation_config)
    except RequestError as error:
        raise ModelError(f"generation_config.json of {checkpoint.name}: {error}; correct the field") from error


def encode(tokenizer: Tokenizer | None, prompt: str | Sequence[int]) -> list[int]:
    """Token ids of a prompt. Raises RequestError for text without a tokenizer, and for what is no prompt."""
    if not isinstance(prompt, str):
        if not isinstance(prompt, Iterable):
            raise RequestError(f"the prompt is {prompt!r:.60}; expected text or a list of token ids", "prompt")
        return list(prompt)
    if tokenizer is None:
        raise RequestError("the prompt is text, but the engine has no tokenizer; pass token ids", "prompt")
    return tokenizer.encode_prompt(prompt)


def check_params(params: object, tokenizer: Tokenizer | None) -> None:
    """Raises RequestError for what are no sampling parameters, and for stop strings without a tokenizer."""
    if not isinstance(params, SamplingParams):
        raise RequestError(f"params is {params!r:.60}; expected SamplingParams(...), or a list of them")
    if params.stop_strings and tokenizer is None:
        raise RequestError("stop strings need a tokenizer; use stop_token_ids", "stop")
