"""Gated activations and mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, silu

from anychip_sdk.contract import Activation, MoESpec
from anychip_sdk.kits.torch.weights import Weight


def activate(gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
    """activation(gate) * up"""
    y = silu(gate) if kind == "silu" else gelu(gate, approximate="tanh")
    return y.mul_(up)


def _expert(x: Tensor, e: int, gate_up: Weight, down: Weight, spec: MoESpec) -> Tensor:
    gate, up = linear(x, gate_up.tensor[e]).split(gate_up.sizes, dim=-1)  # type: ignore[no-untyped-call]
    return linear(activate(gate, up, spec.activation), down.tensor[e])


Expert = Callable[[Tensor, int, Any, Any, MoESpec], Tensor]
"""x: [n, E], the expert's number, gate_up, down -> [n, E]"""


def experts(x: Tensor, scores: Tensor, gate_up: Any, down: Any, spec: MoESpec, expert: Expert = _expert) -> Tensor:
    """x: [T, E], scores of the router: [T, experts] -> [T, E], this rank's part of the sum. Ties go to the lower
    expert. expert: what one of them does, where its weights are not those of this kit."""
    probabilities, order = scores.float().softmax(-1).sort(dim=-1, descending=True, stable=True)
    weights, chosen = probabilities[:, : spec.top_k], order[:, : spec.top_k]  # [T, k] each
    if spec.renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    route = _on_host if x.device.type == "cpu" else _dense
    return route(x, weights.to(x.dtype), chosen, spec, lambda rows, e: expert(rows, e, gate_up, down, spec))


def _on_host(
    x: Tensor, weights: Tensor, chosen: Tensor, spec: MoESpec, expert: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Each expert on its own tokens. Where the ops run on the host, looking at values costs no round trip."""
    out = torch.zeros_like(x)
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=spec.experts).tolist()
    start = 0
    for e, count in enumerate(counts):
        if count:
            picks = order[start : start + count]  # [n] places in chosen
            rows = picks // spec.top_k
            out.index_add_(0, rows, expert(x[rows], e) * weights.flatten()[picks, None])
            start += count
    return out


def _dense(
    x: Tensor, weights: Tensor, chosen: Tensor, spec: MoESpec, expert: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Every expert on every token, weighted by zero where it was not chosen: no value is looked at on the host. Right
    anywhere; a chip with a grouped product overrides `Ops.moe`."""
    dense = torch.zeros(x.shape[0], spec.experts, dtype=x.dtype, device=x.device).scatter_(1, chosen, weights)
    out = torch.zeros_like(x)
    for e in range(spec.experts):
        out += expert(x, e) * dense[:, e : e + 1]
    return out
