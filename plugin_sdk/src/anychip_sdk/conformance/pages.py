"""A KV cache with sequences in it, on the device, the oracle and the reference at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.batches import Span
from anychip_sdk.conformance.inputs import Draw, Given, table
from anychip_sdk.conformance.lab import Array, Body, Trio, Weights, layout
from anychip_sdk.contract import AttentionSpec, Batch, DType, KVDType, KVLayout, Layer, Paged


class Maker(Protocol):
    """What a scene needs of the `lab` fixture."""

    @property
    def draw(self) -> Draw: ...
    def trio(self, dtype: DType, weights: Weights, kv: KVLayout | None = None, form: DType | None = None) -> Trio: ...


@dataclass(frozen=True, kw_only=True)
class Setting:
    """`spans`: decodes first. `order`: seed of the permutation of pages, None for 1, 2, 3 ... `spread`: scale of the
    drawn queries and keys. `kept`: what KV is kept in, None for the test dtype. `uneven`: vectors of K and V differ in
    magnitude, and some are zero. `name`: goes before the names of what is drawn, where a check has several scenes."""

    spec: AttentionSpec
    spans: tuple[Span, ...]
    heads: tuple[int, int] = (4, 2)
    page_size: int = 16
    order: int | None = 1
    spread: float = 1.0
    poison: bool = True
    kept: KVDType | None = None
    uneven: bool = False
    name: str = ""


MAGNITUDES = (1.0, 0.25, 2.0, 0.0, 0.5)
"""Of uneven vectors, in turn."""
LAYERS = 2
"""Layers of the group. The last one is used; the one before it holds NaN, so that a mix-up shows."""


class Scene:
    """Sequences of which `spans` says what was computed and what is new. Every page is first filled with NaN, so that
    ends of pages, pages of nobody and the other layer hold nothing else; then the computed tokens are written."""

    def __init__(self, lab: Maker, dtype: DType, setting: Setting, extra: dict[str, Given] | None = None) -> None:
        self.setting, self.spec = setting, setting.spec
        self.layer = Layer(setting.spec, LAYERS - 1)
        self.lengths = [computed + new for computed, new in setting.spans]
        self.rows = sum(self.lengths)  # row `rows` of the tables is NaN
        starts = np.cumsum([0, *self.lengths[:-1]])
        self.ids = [np.arange(start, start + n) for start, n in zip(starts, self.lengths, strict=True)]
        used = sum(-(-n // setting.page_size) for n in self.lengths)
        self.pages = used + 3  # scratch, and two of nobody
        self.tables = batches.place(self.lengths, setting.page_size, self._order(used, setting.order))
        H, K = setting.heads
        D = setting.spec.head_dim
        group = Paged(layers=LAYERS, kv_heads=K, k_dim=D, v_dim=D, window=setting.spec.window)
        drawn = {
            "q": lab.draw.normal(f"{setting.name}q", self.rows + 1, H * D, dtype=dtype, scale=setting.spread),
            "k": lab.draw.normal(f"{setting.name}k", self.rows + 1, K * D, dtype=dtype, scale=setting.spread),
            "v": lab.draw.normal(f"{setting.name}v", self.rows + 1, K * D, dtype=dtype),
        }
        for name in "kv":
            if setting.uneven:  # powers of two: the rows stay on the dtype's grid
                drawn[name] *= np.resize(MAGNITUDES, self.rows + 1)[:, None].astype(drawn[name].dtype)
            drawn[name][-1] = np.nan
        kv = layout([group], setting.kept or dtype, setting.page_size, self.pages)
        self.width = H * D
        self._bodies: dict[object, Body] = {}
        self.trio = lab.trio(dtype, {n: table(x) for n, x in drawn.items()} | (extra or {}), kv)

    def _order(self, used: int, seed: int | None) -> np.ndarray:
        """Pages in the order the sequences take them; two of nobody lie among them."""
        if seed is None:
            return np.arange(1, used + 1)
        return 1 + np.random.default_rng(seed).permutation(used + 2)[:used]

    def reorder(self, seed: int) -> None:
        self.tables = batches.place(self.lengths, self.setting.page_size, self._order(self.pages - 3, seed))

    def write_history(self, body: Body | None = None, only: Sequence[int] | None = None) -> None:
        """Poison, then what was computed before this step, on all three."""
        rows = range(len(self.lengths)) if only is None else only
        past = [i for i in rows if self.setting.spans[i][0]]
        for bench in self.trio.benches:
            if self.setting.poison:
                for index in range(LAYERS):
                    bench.run(self._prepare(index), self.poison(), self.width)
            if past:
                spans = [(0, self.setting.spans[i][0]) for i in past]
                tables, ids = [self.tables[i] for i in past], [self.ids[i] for i in past]
                batch = batches.ragged(spans, [tables], self.setting.page_size, ids)
                bench.run(body or self._prepare(LAYERS - 1), batch, self.width)

    def poison(self) -> Batch:
        """One long sequence over every page but scratch, all of it the NaN row."""
        length = (self.pages - 1) * self.setting.page_size
        whole = [list(range(1, self.pages))]
        return batches.ragged([(0, length)], [whole], self.setting.page_size, [np.full(length, self.rows)])

    def _prepare(self, index: int) -> Body:
        """Writes K and V of one layer, and gives back the queries' rows."""
        if index not in self._bodies:
            self._bodies[index] = self._make_prepare(index)
        return self._bodies[index]

    def _make_prepare(self, index: int) -> Body:
        layer = replace(self.layer, kv_index=index)

        def body(ops: Any, w: Any, batch: Batch, kv: Any) -> tuple[Any, Any]:
            q, k, v = (ops.embedding(batch.token_ids, w[n]) for n in "qkv")
            _, kv = ops.attention.prepare(q, k, v, kv, batch, layer)
            return ops.embedding(batch.token_ids, w["q"]), kv

        return body

    def body(self, **fused: str) -> Body:
        """The whole attention of a layer. fused: argument of `run`, or "sinks" -> the name of its handle."""
        key = tuple(sorted(fused.items()))
        if key not in self._bodies:
            self._bodies[key] = self._make_body(fused)
        return self._bodies[key]

    def _make_body(self, fused: Mapping[str, str]) -> Body:

        def body(ops: Any, w: Any, batch: Batch, kv: Any) -> tuple[Any, Any]:
            q, k, v = (ops.embedding(batch.token_ids, w[n]) for n in "qkv")
            handles: dict[str, Any] = {name: w[handle] for name, handle in fused.items()}
            if "angles" in handles:
                handles["angles"] = ops.rope_angles(batch.positions, handles["angles"])
            if "sinks" in handles:
                sinks, attention = handles.pop("sinks"), ops.attention
                q, kv = attention.prepare(q, k, v, kv, batch, self.layer, **handles)
                return attention.attend_with_sinks(q, kv, batch, self.layer, sinks), kv
            return ops.attention.run(q, k, v, kv, batch, self.layer, **handles)  # type: ignore[no-any-return]

        return body

    def batch(self, only: Sequence[int] | None = None) -> Batch:
        """This step, of all sequences or of some."""
        chosen = range(len(self.lengths)) if only is None else only
        spans = [self.setting.spans[i] for i in chosen]
        tables, ids = [self.tables[i] for i in chosen], [self.ids[i] for i in chosen]
        return batches.ragged(spans, [tables], self.setting.page_size, ids)

    def on_device(self, batch: Batch | None = None) -> Array:
        """This step's rows, on the device alone."""
        return self.trio.device.run(self.body(), batch or self.batch(), self.width)
