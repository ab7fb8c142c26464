"""Attention on IPEX's paged kernels. Its pages are [pages, K, page_size, D], as the torch kit's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from anychip_sdk.contract import AttentionSpec, Batch, DType, KVSpec, Layer
from anychip_sdk.kits.torch.allocator import KV
from anychip_sdk.kits.torch.attention import Static, TorchAttention
from anychip_sdk.kits.torch.scaled import Pages, ScaledPages
from anychip_sdk.kits.torch.weights import Weight
from torch import Tensor

ATTENTION: Mapping[str, str] = {
    "write": "reshape_and_cache",
    "prepare": "rmsnorm, rotary_position_embedding, reshape_and_cache",
    "attend": "single_query_cached_kv_attention but for softcaps, flash_attn_varlen_func but for windows of 1; "
    "the torch kit for these and for KV in another dtype",
}
"""Method -> the functions of torch.ops.torch_ipex that compute it."""


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x: [T, H, D], angles: [T, D], the sines of D / 2 frequencies and then their cosines."""
    T, H, D = x.shape
    first = torch.tensor(0)  # the position of the first token in `angles`
    turned: Tensor = torch.ops.torch_ipex.rotary_position_embedding(x[None], angles, first, H, D, D // 2, D)[0]
    return turned.view(T, H, D)


class IpexAttention(TorchAttention):
    """Left to the torch kit: KV in another dtype than the activations', V of another width than K, and what `_lacks`
    names."""

    def fallback(self, spec: AttentionSpec, heads: int, kv: KVSpec, dtype: DType) -> str | None:
        group = kv.groups[spec.group]
        if kv.dtype != dtype:
            return f"IPEX keeps KV in the activations' {dtype} alone, and it is asked for in {kv.dtype}"
        if group.k_dim != group.v_dim:
            return f"IPEX takes K and V of one width, and the model's have {group.k_dim} and {group.v_dim} numbers"
        if spec.softcap is not None or spec.window == 1:
            return "IPEX has no decodes with a softcap, nor prefills with a window of 1"
        return None

    def write(self, k: Tensor, v: Tensor, kv: KV, batch: Batch, layer: Layer) -> KV:
        group = layer.attention.group
        keys, values = (cache[layer.kv_index] for cache in kv[group])
        if not _serves(k, keys, values):
            return super().write(k, v, kv, batch, layer)
        slots = batch.slot_mapping[group]
        torch.ops.torch_ipex.reshape_and_cache(k.contiguous(), v.contiguous(), keys, values, slots, "auto", 1.0, 1.0)
        return kv

    def attend(self, q: Tensor, kv: KV, batch: Batch, layer: Layer) -> Tensor:
        spec = layer.attention
        keys, values = (cache[layer.kv_index] for cache in kv[spec.group])
        static: Static = batch.key.static  # type: ignore[assignment]  # what `plan` returned
        if not _serves(q, keys, values) or _lacks(spec, static):
            return super().attend(q, kv, batch, layer)
        q = q.contiguous()
        out = torch.zeros_like(q)
        if static[0]:
            _decode(out, q, keys, values, batch, spec, static[0])
        if static[1]:
            _prefill(out, q, keys, values, batch, spec, static)
        return out.view(len(q), -1)

    def prepare(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        kv: KV,
        batch: Batch,
        layer: Layer,
        *,
        angles: Any = None,
        q_norm: Weight | None = None,
        k_norm: Weight | None = None,
    ) -> tuple[Tensor, KV]:
        T, D, eps = q.shape[0], layer.attention.head_dim, layer.attention.eps
        H, K = q.shape[1] // D, k.shape[1] // D
        q, k, v = q.reshape(T, H, D), k.reshape(T, K, D), v.reshape(T, K, v.shape[1] // K)
        if q_norm is not None:
            q = torch.ops.torch_ipex.rmsnorm(q, q_norm.tensor, eps)
        if k_norm is not None:
            k = torch.ops.torch_ipex.rmsnorm(k, k_norm.tensor, eps)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return q, self.write(k, v, kv, batch, layer)


def _serves(x: Tensor, keys: Pages, values: Pages) -> bool:
    """x: [T, heads, D]."""
    if isinstance(keys, ScaledPages) or isinstance(values, ScaledPages):
        return False
    return keys.dtype == x.dtype and keys.shape == values.shape


def _lacks(spec: AttentionSpec, static: Static) -> bool:
    """Whether a batch holds what IPEX 2.8 refuses: decodes with a softcap, prefills with a window of 1."""
    decodes, prefills = static
    return bool((decodes and spec.softcap is not None) or (prefills and spec.window == 1))


def _decode(
    out: Tensor, q: Tensor, keys: Tensor, values: Tensor, batch: Batch, spec: AttentionSpec, count: int
) -> None:
    """Of the first `count` sequences, one token each, into out: [T, H, D]."""
    K, size = keys.shape[1:3]
    heads = torch.arange(q.shape[1], dtype=torch.int32) // (q.shape[1] // K)
    table = batch.page_table[spec.group, :count].contiguous()
    places = table.shape[1] * size
    window = spec.window or places  # without one it refuses some batches of four sequences and more
    torch.ops.torch_ipex.single_query_cached_kv_attention(
        *(out[:count], q[:count], keys, values, heads, spec.scale, table, batch.seq_lens[:count]),
        *(size, places, None, window, 1.0, 1.0, -1.0),
    )


def _prefill(
    out: Tensor, q: Tensor, keys: Tensor, values: Tensor, batch: Batch, spec: AttentionSpec, static: Static
) -> None:
    """Of the sequences behind those that decode, into out: [T, H, D]."""
    count, segments = static
    first, last = count, count + len(segments)
    start = segments[0][1]
    queries = batch.query_start[first : last + 1] - start
    places = torch.nn.functional.pad(batch.seq_lens[first:last].cumsum(0, dtype=torch.int32), (1, 0))
    table = batch.page_table[spec.group, first:last].contiguous()
    before, softcap = -1 if spec.window is None else spec.window - 1, spec.softcap or -1.0
    longest = max(n for _, _, n, _ in segments), max(length for _, _, _, length in segments)
    torch.ops.torch_ipex.flash_attn_varlen_func(
        *(out[start:], q[start:], keys, values, queries, places, *longest, spec.scale, True, table, None),
        *(before, -1, "auto", 1.0, 1.0, softcap),
    )
