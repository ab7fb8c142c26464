"""Runs one sequence of a checkpoint over the numpy kit, with batches laid out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from anychip.loading.checkpoint import open_checkpoint
from anychip.models.registry import family
from anychip_sdk.contract import Batch, Bucket, KVLayout, KVSpec, StepKey, WeightSpec, view, words
from anychip_sdk.kits.numpy.platform import NumpyPlatform

PAGE = 4


class NumpyRunner:
    """Greedy decoding of one sequence of at most `longest` tokens."""

    def __init__(self, directory: Path, longest: int) -> None:
        self._device = NumpyPlatform().open()
        with open_checkpoint(directory) as checkpoint:
            shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
            self._family = family(checkpoint.config)
            self.spec = self._family.from_config(checkpoint.config)
            self._family.check(self.spec, shapes)

            def pack(tree: Any) -> Any:
                if isinstance(tree, WeightSpec):
                    return self._device.pack(tree, checkpoint.read, shapes, "float32")
                if isinstance(tree, dict):
                    return {key: pack(child) for key, child in tree.items()}
                return [pack(child) for child in tree]

            self._weights = pack(self._family.weights(self.spec))
        pages = -(-longest // PAGE)
        groups = len(self.spec.groups)
        layout = KVLayout(KVSpec(self.spec.groups, "float32"), PAGE, (pages + 1,) * groups, slots=2)
        self._kv = self._device.allocator.allocate(layout)
        order = np.random.default_rng(0)
        # [G, P] physical pages out of order, and another order in every group
        self._pages = np.array([1 + order.permutation(pages) for _ in range(groups)], np.int32)
        self._length = 0

    def forward(self, tokens: list[int], *, all_rows: bool = False) -> np.ndarray:
        """Adds the tokens to the sequence -> logits [R, V] of all of them, or of the last one."""
        batch = self._batch(tokens, all_rows)
        self._length += len(tokens)
        batch = self._device.ops.attention.begin(batch)
        logits, self._kv = self._family.forward(self._device.ops, self.spec, self._weights, batch, self._kv)
        return np.asarray(logits)

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """`count` tokens, the prompt in one batch, then one token a batch."""
        tokens = [int(self.forward(prompt)[0].argmax())]
        while len(tokens) < count:
            tokens.append(int(self.forward(tokens[-1:])[0].argmax()))
        return tokens

    def _batch(self, tokens: list[int], all_rows: bool) -> Batch:
        T, start, end = len(tokens), self._length, self._length + len(tokens)
        groups, columns = len(self._pages), -(-end // PAGE)
        rows = T if all_rows else 1
        bucket = Bucket(tokens=T, seqs=1, pages=columns, rows=rows, decode=T == 1, groups=groups)
        key = StepKey(bucket)
        shapes = self._device.ops.attention.plan_shapes(bucket)
        batch = view(np.zeros(words(key, shapes), np.int32), key, shapes)
        positions = np.arange(start, end, dtype=np.int32)
        batch.counts[:] = (T, 1, rows, int(T == 1))
        batch.token_ids[:] = tokens
        batch.positions[:] = positions
        batch.token_slot[:] = batch.seq_slot[:] = 1
        batch.query_start[:] = (0, T)
        batch.seq_lens[:] = end
        batch.slot_mapping[:] = self._pages[:, positions // PAGE] * PAGE + positions % PAGE
        batch.page_table[:, 0] = self._pages[:, :columns]
        batch.logit_rows[:] = np.arange(T - rows, T)
        batch.key = StepKey(bucket, static=self._device.ops.attention.plan(batch))
        return batch
