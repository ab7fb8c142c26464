"""Mixture of experts on kernels of our own: picks (a token with one of its experts) are sorted by expert, so that each
expert's weight meets its rows in one product."""

from __future__ import annotations

from anychip_sdk.contract import Activation, MoESpec
from torch import Tensor, int32

from anychip_cpu.launch import Launcher
from anychip_cpu.native import ACTIVATIONS, CombineWork, GatedWork, GatherWork, Kernels, RouteWork
from anychip_cpu.packed import Groups, PackedWeight, can_gate, product
from anychip_cpu.quantized import IntExperts, int_product

Experts = PackedWeight | IntExperts


def experts(
    x: Tensor, scores: Tensor, gate_up: Experts, down: Experts, spec: MoESpec, kernels: Kernels, launch: Launcher
) -> Tensor:
    """x: [T, E], scores of the router: [T, experts] -> [T, E], this rank's part of the sum; zero in padding."""
    x, scores, top = launch.rows(x), launch.rows(scores), spec.top_k
    (tokens, size), picks = x.shape, len(x) * top
    chosen, place, token = (launch.empty((picks,), int32) for _ in range(3))
    weights, starts = launch.empty((picks,)), launch.empty((spec.experts + 1,), int32)
    work = RouteWork(
        *(t.data_ptr() for t in (scores, chosen, weights, starts, token, place)),
        *(launch.live(x), scores.stride(0), tokens, spec.experts, top, spec.renormalize),
    )
    launch.run(kernels.of("route", scores.dtype), work)
    groups = Groups(starts.data_ptr(), spec.experts)
    rows = launch.empty_input((picks, size), x.dtype)
    gather = GatherWork(
        *(x.data_ptr(), token.data_ptr(), rows.data_ptr(), groups.live),
        *(x.stride(0) * x.itemsize, rows.stride(0) * x.itemsize, picks, size * x.itemsize, 1.0),
    )
    launch.run(kernels.gather, gather)
    if can_gate(gate_up.sizes, kernels):
        hidden = _product(rows, gate_up, kernels, launch, groups, spec.activation)
    else:
        gate, up = _product(rows, gate_up, kernels, launch, groups).split(gate_up.sizes, -1)  # type: ignore[no-untyped-call]
        hidden = launch.empty_input((picks, gate_up.sizes[0]), x.dtype)
        gated = GatedWork(
            *(gate.data_ptr(), up.data_ptr(), hidden.data_ptr(), groups.live),
            *(gate.stride(0), up.stride(0), hidden.stride(0), picks, hidden.shape[1], ACTIVATIONS[spec.activation]),
        )
        launch.run(kernels.of("gated", x.dtype), gated)
    parts = _product(hidden, down, kernels, launch, groups)
    y = launch.empty((tokens, size), x.dtype, like=x)
    pointers = (t.data_ptr() for t in (parts, weights, place, y))
    launch.run(kernels.of("combine", x.dtype), CombineWork(*pointers, launch.live(x), tokens, top, size))
    return y


def _product(
    x: Tensor, w: Experts, kernels: Kernels, launch: Launcher, groups: Groups, gated: Activation | None = None
) -> Tensor:
    if isinstance(w, IntExperts):
        return int_product(x, w, kernels, launch, groups, gated)
    return product(x, w, kernels, launch, groups, gated)
