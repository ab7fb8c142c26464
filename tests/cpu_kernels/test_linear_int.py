"""Products with weights of 8 and 4 bits, on every instruction set of this processor, against float64 on the numbers
that the weight was rounded to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anychip_cpu import native, quantized
from anychip_cpu.launch import Launcher
from anychip_cpu.quantized import FORMATS, IntWeight, int_product
from anychip_cpu.weight_memory import WeightMemory
from anychip_sdk.contract import QUANT_FORMATS, QuantFormat
from anychip_sdk.kits.torch.weights import Weight

EPS = np.finfo(np.float32).eps


@pytest.fixture
def kernels(device):
    return device.ops._kernels


def product(x, w, kernels):
    return int_product(x, w, kernels, Launcher())


@pytest.fixture(params=["int8", "int8-g32", "int8-g128", "int4-g32", "int4-g64", "int4-g128"])
def format(request):
    return QUANT_FORMATS[request.param]


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def weight(outputs, inputs, *, bias=True):
    return Weight(random(outputs, inputs), (outputs,), random(outputs) if bias else None)


def quantize(w: Weight, format: QuantFormat, kernels: native.Kernels) -> IntWeight:
    return quantized.quantize(w, format, kernels, WeightMemory())


def rounded(w):
    """An IntWeight as float64 [outputs, inputs], and its scales [outputs, groups]."""
    panels, _, width, _ = w.tensor.shape
    words = w.tensor.numpy().astype(np.int64)
    if w.bits == 4:
        words = np.stack([words & 15, words >> 4], axis=2).reshape(panels, -1, width, 4)
    whole = words.transpose(0, 2, 1, 3).reshape(panels * width, -1)[: w.outputs, : w.inputs] - (
        128 if w.bits == 8 else 8
    )
    scales = w.scales.double().numpy().transpose(0, 2, 1).reshape(panels * width, -1)[: w.outputs]
    return whole * np.repeat(scales, w.group or w.inputs, axis=1)[:, : w.inputs], scales


def steps(x, w):
    """How far the whole numbers of x may lie from x: half a step of each group, [rows, inputs]."""
    group = w.group or native.INPUT_GROUP
    blocks = [np.abs(x[:, i : i + group]).max(1, keepdims=True).repeat(min(group, x.shape[1] - i), 1)
              for i in range(0, x.shape[1], group)]  # fmt: skip
    return np.concatenate(blocks, 1) / 127 / 2


def bound(x, w, slack=1.0):
    """Of the format, half a step for each input, and of float32 sums over groups."""
    values = np.abs(rounded(w)[0]).T
    bias = 0 if w.bias is None else np.abs(w.bias.double().numpy())
    groups = -(-w.inputs // (w.group or native.INPUT_GROUP))
    return slack * steps(x, w) @ values + (groups + 4) * EPS * (np.abs(x) @ values + bias)


def oracle(x, w):
    return x @ rounded(w)[0].T + (0 if w.bias is None else w.bias.double().numpy())


SHAPES = [(1, 1), (7, 5), (32, 64), (33, 65), (129, 100), (40, 300)]


def blocks(values, group):
    """values: [outputs, inputs] -> its groups of inputs, [outputs, at most `group`] each."""
    return [values[:, i : i + group] for i in range(0, values.shape[1], group)]


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_weights_are_rounded_to_nearest(kernels, format, outputs, inputs):
    w = weight(outputs, inputs)
    values, scales = rounded(quantize(w, format, kernels))
    exact, group = w.tensor.double().numpy(), format.group or inputs
    for g, (got, wanted) in enumerate(zip(blocks(values, group), blocks(exact, group), strict=True)):
        step = scales[:, g : g + 1]
        low, high = (-127, 127) if format.bits == 8 else (-8, 7)
        assert (np.abs(got - np.clip(np.round(wanted / step), low, high) * step) <= 0.001 * np.abs(step)).all()
        top = np.take_along_axis(wanted, np.abs(wanted).argmax(1)[:, None], 1)
        plain = torch.tensor(np.abs(top) / 127 if format.bits == 8 else top / -8).bfloat16().double().numpy()
        left = np.clip(np.round(wanted / plain), low, high) * plain - wanted
        # No worse than where the largest sets the scale.
        assert (((got - wanted) ** 2).sum(1) <= (left**2).sum(1) * 1.001 + 1e-9).all()


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_products(kernels, threads, format, outputs, inputs):
    for bias in (True, False):
        w = quantize(weight(outputs, inputs, bias=bias), format, kernels)
        for rows in (1, 2, 5, 12, 13, 31, 97, 200):
            x = random(rows, inputs)
            error = np.abs(product(x, w, kernels).double().numpy() - oracle(x.double().numpy(), w))
            assert (error <= bound(x.double().numpy(), w)).all(), (rows, bias)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_whole_numbers_are_exact_but_for_float32(kernels, threads, format, outputs, inputs):
    """x that needs no rounding: one of every group is 127, so that a step is 1."""
    w = quantize(weight(outputs, inputs), format, kernels)
    x = random(14, inputs).mul(50).round().clamp(-127, 127)
    x[:, :: format.group or native.INPUT_GROUP] = 127
    y, exact = product(x, w, kernels), x.double().numpy()
    assert (np.abs(y.double().numpy() - oracle(exact, w)) <= bound(exact, w, slack=0)).all()


def test_the_largest_numbers_do_not_overflow(kernels, format):
    inputs = 4 * 128
    for sign in (1.0, -1.0):
        w = quantize(Weight(torch.full((33, inputs), sign), (33,)), format, kernels)
        x = torch.full((13, inputs), 3.0)
        assert torch.allclose(product(x, w, kernels), torch.full((13, 33), 3.0 * inputs * sign), rtol=0.005)


def test_every_instruction_set_gives_the_same(format, threads):
    x, w = random(30, 300), weight(70, 300)
    known = [native.kernels(isa) for isa in native.isas()]
    first, *others = (product(x, quantize(w, format, kernels), kernels) for kernels in known)
    room = 8 * EPS * (x.abs() @ w.tensor.abs().T + 4)
    assert all(((y - first).abs() <= room).all() for y in others)


def test_a_row_does_not_depend_on_the_others(kernels, format):
    w, x = quantize(weight(70, 200), format, kernels), random(150, 200)
    whole = product(x, w, kernels)
    for rows in (slice(0, 1), slice(3, 9), slice(40, 150)):
        assert torch.equal(product(x[rows], w, kernels), whole[rows])


def test_strided_and_unaligned_rows(kernels, format):
    w, wide = quantize(weight(40, 24), format, kernels), random(9, 64)
    for x in (wide[:, 1:25], wide[::2, 40:64], wide.T[:24].T):
        assert torch.equal(product(x, w, kernels), product(x.contiguous(), w, kernels))


def unaligned(tensor):
    """The same numbers, one element further on than the allocator's alignment."""
    room = tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape)
    return room.copy_(tensor)


def test_pointers_need_no_more_than_their_elements_alignment(kernels, format):
    w, x = quantize(weight(45, 70), format, kernels), random(5, 70)
    expected = product(x, w, kernels)
    w.tensor, w.scales, w.bias = unaligned(w.tensor), unaligned(w.scales), unaligned(w.bias)
    assert torch.equal(product(unaligned(x), w, kernels), expected)


@pytest.mark.parametrize(("rows", "inputs"), [(1, 1), (4, 8), (13, 65), (3, 128), (2, 257)])
def test_nothing_is_written_outside(kernels, format, rows, inputs):
    """Neither past the result nor past the scratch, whose size the header gives."""
    w, x = quantize(weight(17, inputs), format, kernels), random(rows, inputs)
    groups = -(-inputs // (w.group or native.INPUT_GROUP))
    size = max(rows, 2 * native.FEW) * (8 * groups + inputs + 128)
    y, scratch = torch.full((rows * 17 + 64,), 7.0), torch.full((size + 128,), 7, dtype=torch.uint8)
    work = native.LinearWork(
        *(x.data_ptr(), w.tensor.data_ptr(), w.scales.data_ptr(), None, y[32:].data_ptr(), scratch[64:].data_ptr()),
        *(None, None, inputs, rows, 17, inputs, 17, w.bits, w.group, 0, 0),
    )
    native.run(kernels.linear_int_f32, work, 2)
    assert (y[:32] == 7).all()
    assert (y[32 + rows * 17 :] == 7).all()
    assert (scratch[:64] == 7).all()
    assert (scratch[64 + size :] == 7).all()


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("rows", [1, 4, 5, 13, 97])
def test_a_gate_makes_what_its_parts_make(device, kernels, threads, format, rows, kind):
    w, x = quantize(weight(192, 70), format, kernels), random(rows, 70)
    gate, up = product(x, w, kernels).split(96, dim=-1)
    gated = int_product(x, w, kernels, Launcher(), gated=kind)
    assert torch.equal(gated, device.ops.gated_activation(gate, up, kind))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_spoils_its_row_and_no_other(kernels, format, value):
    w, x = quantize(weight(40, 150), format, kernels), random(13, 150)
    expected = product(x, w, kernels)
    x[4, 149] = value
    y = product(x, w, kernels)
    assert y[4].isnan().all()
    others = torch.arange(13) != 4
    assert torch.equal(y[others], expected[others])


@pytest.mark.parametrize("tiny", [0.0, 1e-38, 1e-42])
def test_zeros_and_tiny_numbers(kernels, format, tiny):
    w, x = weight(20, 96), random(3, 96)
    assert (product(torch.full((3, 96), tiny), quantize(w, format, kernels), kernels) - w.bias).abs().max() <= 1e-30
    nothing = quantize(Weight(torch.full((20, 96), tiny), (20,)), format, kernels)
    assert product(x, nothing, kernels).abs().max() <= 1e-30


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(kernels, format, dtype):
    w, x = quantize(weight(40, 100), format, kernels), random(5, 100).to(dtype)
    y = product(x, w, kernels)
    assert y.dtype == dtype
    assert torch.equal(y, product(x.float(), w, kernels).to(dtype))


def test_an_empty_batch(kernels, format):
    assert product(torch.empty(0, 8), quantize(weight(17, 8), format, kernels), kernels).shape == (0, 17)


def test_the_formats_and_what_they_hold(kernels):
    assert set(FORMATS) == set(QUANT_FORMATS)
    for format in (QuantFormat(8), QuantFormat(8, 64), QuantFormat(4, 32)):
        w = quantize(weight(64, 128), format, kernels)
        assert w.tensor.nbytes + w.scales.nbytes == format.nbytes(64, 128)
