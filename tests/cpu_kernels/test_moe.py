"""Mixture of experts on the kernels, against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from anychip_cpu.quantized import IntExperts
from anychip_sdk.contract import MoESpec, WeightSpec
from numpy_batches import ragged
from torch_cases import ORACLE, close, draw, on_device, reader, wide

SPEC = MoESpec(experts=5, top_k=2, renormalize=True, activation="silu")


class Case:
    """The same experts on a device and on the oracle."""

    def __init__(self, device, spec=SPEC, dtype="float32", size=24, inner=40, quantize=None):
        self.device, self.spec, self.dtype = device, spec, dtype
        names = {part: tuple(f"{part}{e}" for e in range(spec.experts)) for part in ("gate", "up", "down")}
        shapes = {"gate": (inner, size), "up": (inner, size), "down": (size, inner)}
        tensors = {
            name: draw(*shapes[part], seed=e + 10 * len(part)) / 4
            for part in names
            for e, name in enumerate(names[part])
        }
        tensors["router"] = draw(spec.experts, size, seed=9)
        specs = (
            WeightSpec((("router",),), "linear"),
            WeightSpec((names["gate"], names["up"]), "experts", quantize=quantize),
            WeightSpec((names["down"],), "experts", quantize=quantize),
        )
        read, shapes = reader({name: t.to(getattr(torch, dtype)) for name, t in tensors.items()})
        self.mine = tuple(device.pack(s, read, shapes, dtype) for s in specs)
        self.oracle = tuple(ORACLE.pack(replace(s, quantize=None), read, shapes, "float64") for s in specs)
        self.size = size

    def run(self, x, counted=None):
        host = ragged([(0, len(x))], [list(range(1, 2 + len(x)))], 1)
        host.counts[0] = counted or len(x)
        got = self.device.ops.moe(x, *self.mine, self.spec, on_device(self.device, host))
        return got, ORACLE.ops.moe(wide(x), *self.oracle, self.spec, host)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 40, 200])
@pytest.mark.parametrize("inner", [40, 64])
def test_experts(device, threads, tokens, inner, dtype):
    """Of 64, the activation is a part of the product, since these are whole panels."""
    case = Case(device, dtype=dtype, inner=inner)
    got, wanted = case.run(draw(tokens, case.size, dtype=dtype))
    close(got, wanted, dtype, terms=200)


@pytest.mark.parametrize("top_k", [1, 3, 5])
@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_kinds_of_routing(device, top_k, renormalize, activation):
    spec = MoESpec(experts=5, top_k=top_k, renormalize=renormalize, activation=activation)
    case = Case(device, spec)
    got, wanted = case.run(draw(33, case.size))
    close(got, wanted, "float32", terms=200)


@pytest.mark.parametrize(("size", "inner"), [(1, 1), (7, 33), (65, 70)])
def test_odd_sizes(device, threads, size, inner):
    case = Case(device, size=size, inner=inner)
    got, wanted = case.run(draw(19, size))
    close(got, wanted, "float32", terms=200)


def test_equal_scores_go_to_the_lower_experts(device):
    case = Case(device)
    x = torch.zeros(3, case.size)
    x[1] = 1
    router = case.mine[0].tensor
    router.zero_()
    case.oracle[0].parts[0][:] = 0
    got, wanted = case.run(x)
    close(got, wanted, "float32", terms=200)


def test_a_token_does_not_depend_on_the_others(device):
    case = Case(device)
    x = draw(150, case.size)
    whole, _ = case.run(x)
    torch.set_num_threads(3)
    for rows in (slice(0, 1), slice(3, 9), slice(40, 150)):
        assert case.run(x[rows])[0].equal(whole[rows])
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["int8", "int8-g32", "int4-g32", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("inner", [40, 64])
def test_experts_of_whole_numbers(device, threads, name, inner, dtype):
    """No further from the float ones than the format's steps: a few in a hundred of the largest."""
    case = Case(device, dtype=dtype, inner=inner, quantize=name)
    assert isinstance(case.mine[1], IntExperts)
    got, wanted = case.run(draw(30, case.size, dtype=dtype))
    assert got.dtype == getattr(torch, dtype)
    error = np.abs(wide(got) - wanted).max() / np.abs(wanted).max()
    assert error < (0.2 if name.startswith("int4") else 0.03)
