"""A step plugin to start from: a kit's device keeps weights and pages and runs the reference forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from anychip_sdk.contract import (
    Batch,
    Bucket,
    Device,
    DType,
    KVLayout,
    KVSpec,
    Memory,
    NotSupported,
    Pending,
    Reader,
    Sampled,
    SampleKind,
    StepKey,
    StepPlugin,
    WeightSpec,
    view,
)

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
MOST_COMPILED = 256
"""Compiled steps that are kept. A device with buckets has fewer; one without makes those of a new shape at once."""


class KitSteps(StepPlugin):
    """A compiler overrides `_forward`, and later `load` and `run` where it keeps weights and pages itself. The device
    must plan without arrays of its own (`Attention.plan_shapes` is empty), as those of the kits do."""

    def __init__(self, device: Device) -> None:
        self.info, self.capabilities = device.info, device.capabilities
        self._device = device
        self._compiled = lru_cache(MOST_COMPILED)(partial(device.compile, self._step))

    def memory(self) -> Memory:
        return self._device.allocator.memory()

    def layout(self, spec: KVSpec, *, budget: int, page_size: int | None, max_len: int, slots: int) -> KVLayout:
        return self._device.allocator.layout(spec, budget=budget, page_size=page_size, max_len=max_len, slots=slots)

    def load(self, spec: Any, weights: Any, read: Reader, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> None:
        if spec.architecture not in ARCHITECTURES:
            raise NotSupported(f"it has no step for {spec.architecture}; it has {', '.join(ARCHITECTURES)}")

        def pack(tree: Any) -> Any:
            if isinstance(tree, WeightSpec):
                return self._device.pack(tree, read, shapes, dtype)
            return {k: pack(v) for k, v in tree.items()} if isinstance(tree, dict) else [pack(v) for v in tree]

        self._spec, self._weights = spec, pack(weights)

    def allocate(self, layout: KVLayout) -> None:
        self._compiled.cache_clear()  # what was recorded reads the pages there were before
        self._kv = self._device.allocator.allocate(layout)
        self._state = self._device.state(layout.slots)

    def copy_pages(self, group: int, source: np.ndarray, target: np.ndarray) -> None:
        self._kv = self._device.allocator.copy_pages(self._kv, group, source, target)

    def bucket(self, exact: Bucket) -> Bucket:
        return self._device.bucket(exact)

    def sample_kind(self, exact: SampleKind) -> SampleKind:
        return self._device.sample_kind(exact)

    def lend(self, words: int) -> np.ndarray:
        return self._device.lend(words)

    def run(self, key: StepKey, buffer: np.ndarray) -> Pending:
        key = replace(key, static=self._device.ops.attention.plan(view(buffer, key)))
        pending, self._kv, self._state = self._compiled(key)(self._weights, self._kv, self._state, buffer)
        return pending

    def close(self) -> None:
        self._compiled.cache_clear()
        self._device.close()

    def _step(self, weights: Any, kv: Any, state: Any, batch: Batch) -> tuple[Sampled, Any, Any]:
        ops = self._device.ops
        batch = ops.attention.begin(batch)
        if batch.key.feed:
            batch.token_ids = ops.feed(batch, state)
        logits, kv = self._forward(weights, kv, batch)
        sampled, state = ops.sample(logits, batch, state)
        return sampled, kv, state

    def _forward(self, w: Any, kv: Any, batch: Batch) -> tuple[Any, Any]:
        """weights, kv, batch -> logits [R, V] float32 of `batch.logit_rows`, kv. The decoder of `ARCHITECTURES`:
        norm, attention, residual, norm, gated MLP, residual."""
        ops, spec = self._device.ops, self._spec
        residual = ops.embedding(batch.token_ids, w["embed"], spec.embedding_scale)  # [T, E]
        angles = [ops.rope_angles(batch.positions, table) for table in w["rope"]]
        h = ops.zeros_like(residual)
        for layer, p in zip(spec.layers, w["layers"], strict=True):
            x, residual = ops.add_rms_norm(h, residual, p["attention_norm"], spec.eps)
            q, k, v = ops.linear_split(x, p["qkv"])
            norms = {name: p.get(name) for name in ("q_norm", "k_norm")}
            h, kv = ops.attention.run(q, k, v, kv, batch, layer, angles=angles[layer.rope], **norms)
            x, residual = ops.add_rms_norm(ops.linear(h, p["out"]), residual, p["mlp_norm"], spec.eps)
            h = ops.gated_mlp(x, p["gate_up"], p["down"], spec.activation)
        h, residual = ops.take(h, batch.logit_rows), ops.take(residual, batch.logit_rows)  # [R, E]
        x, _ = ops.add_rms_norm(h, residual, w["norm"], spec.eps)
        return ops.logits(x, w["embed"] if spec.tied else w["head"], spec.final_softcap), kv
