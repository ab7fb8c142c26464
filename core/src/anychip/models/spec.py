"""What the engine knows of a model: plain, frozen data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anychip_sdk.contract import Activation, AttentionSpec, Layer, MoESpec, Paged


@dataclass(frozen=True)
class RopeTable:
    """Inverse frequencies [rotary / 2] of one kind of layer."""

    frequencies: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Sizes in elements, lengths in tokens. `groups`: KV groups; layers of one window share a group. `dense`: which
    layers have a plain MLP although `moe` is set."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_len: int
    eps: float
    activation: Activation
    layers: tuple[Layer, ...]
    groups: tuple[Paged, ...]
    rope: tuple[RopeTable, ...]
    tied: bool
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    final_softcap: float | None = None
    moe: MoESpec | None = None
    moe_intermediate_size: int = 0
    moe_names: str = ""
    """"mixtral" or "qwen": how the checkpoint calls the experts"""
    dense: tuple[bool, ...] = ()


def arrange_layers(
    windows: Sequence[int | None],
    *,
    num_kv_heads: int,
    head_dim: int,
    scale: float,
    eps: float,
    softcap: float | None = None,
    rope: Sequence[int] | None = None,
) -> tuple[tuple[Layer, ...], tuple[Paged, ...]]:
    """Layers with their KV groups: one group per distinct window, in order of first use."""
    distinct = list(dict.fromkeys(windows))
    counts = [0] * len(distinct)
    layers = []
    for i, window in enumerate(windows):
        group = distinct.index(window)
        attention = AttentionSpec(head_dim=head_dim, scale=scale, group=group, window=window, softcap=softcap, eps=eps)
        layers.append(Layer(attention, counts[group], rope[i] if rope else 0, final=i == len(windows) - 1))
        counts[group] += 1
    groups = tuple(
        Paged(layers=n, kv_heads=num_kv_heads, k_dim=head_dim, v_dim=head_dim, window=w)
        for n, w in zip(counts, distinct, strict=True)
    )
    return tuple(layers), groups
