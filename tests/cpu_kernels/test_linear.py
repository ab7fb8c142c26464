"""The linear kernels against float64, on every instruction set of this processor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from anychip_cpu import native
from anychip_sdk.kits.torch.weights import Weight


@pytest.fixture
def ops(device):
    return device.ops


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def dtype(request):
    return request.param


def weight(outputs, inputs, dtype=torch.float32, *, bias=True):
    generator = torch.Generator().manual_seed(outputs * 1000 + inputs)
    b = torch.randn(outputs, generator=generator).to(dtype) if bias else None
    return Weight(torch.randn(outputs, inputs, generator=generator).to(dtype), (outputs,), b)


def error_bound(x, w, expected):
    """Of a float32 sum in any order: inputs * eps * sum of magnitudes (Higham, Accuracy and Stability, section 3.1).

    In 16 bits the result is rounded to nearest once more."""
    magnitudes = np.abs(x.double().numpy()) @ np.abs(w.tensor.double().numpy()).T
    bound = (x.shape[1] + 2) * np.finfo(np.float32).eps * (magnitudes + 4)
    return bound if x.dtype == torch.float32 else bound + (np.abs(expected) + bound) * torch.finfo(x.dtype).eps / 2


@pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 31, 97, 200])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 5), (32, 64), (33, 65), (129, 100)])
@pytest.mark.parametrize("bias", [True, False])
def test_products(ops, threads, rows, outputs, inputs, bias, dtype):
    w = weight(outputs, inputs, dtype, bias=bias)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(rows)).to(dtype)
    y = ops.linear(x, ops._pack(w, embedding=False))
    expected = (x.double() @ w.tensor.double().T + (w.bias.double() if bias else 0)).numpy()
    assert y.dtype == dtype
    assert (np.abs(y.double().numpy() - expected) <= error_bound(x, w, expected)).all()


def test_a_row_does_not_depend_on_the_others(ops, dtype):
    packed = ops._pack(weight(70, 90, dtype), embedding=False)
    x = torch.randn(150, 90).to(dtype)
    whole = ops.linear(x, packed)
    for rows in (slice(0, 1), slice(3, 9), slice(40, 150)):
        assert torch.equal(ops.linear(x[rows], packed), whole[rows])


@pytest.mark.parametrize("kind", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("rows", [1, 4, 5, 13, 97, 200])
@pytest.mark.parametrize("half", [32, 96, 100])
def test_a_gate_makes_what_its_parts_make(ops, threads, rows, half, kind, dtype):
    """Bit by bit, where a half is whole panels and where it is not."""
    gate_up = ops._pack(replace(weight(2 * half, 33, dtype), sizes=(half, half)), embedding=False)
    down = ops._pack(weight(40, half, dtype), embedding=False)
    x = torch.randn(rows, 33, generator=torch.Generator().manual_seed(rows)).to(dtype)
    hidden = ops.gated_activation(*ops.linear_split(x, gate_up), kind)
    assert torch.equal(ops.gated_mlp(x, gate_up, down, kind), ops.linear(hidden, down))


def test_strided_and_unaligned_rows(ops, dtype):
    w = weight(40, 24, dtype)
    packed = ops._pack(w, embedding=False)
    wide = torch.randn(9, 64).to(dtype)
    for x in (wide[:, 1:25], wide[::2, 40:64], wide.T[:24].T):
        assert torch.equal(ops.linear(x, packed), ops.linear(x.contiguous(), packed))


def test_nothing_is_written_outside(ops, dtype):
    """The last panel is not full, so its kernel must not store whole vectors."""
    w = weight(17, 8, dtype)
    packed = ops._pack(w, embedding=False)
    room = torch.full((4 * 17 + 64,), 7.0).to(dtype)
    kernels, x = ops._kernels, torch.randn(4, 8).to(dtype)
    scratch = torch.empty(4, 8 + 16)
    pointers = (
        x.data_ptr(),
        packed.tensor.data_ptr(),
        None,
        None,
        room[32:].data_ptr(),
        scratch.data_ptr(),
        None,
        None,
    )
    work = native.LinearWork(*pointers, 8, 4, 17, 8, 17, 0, 0, 0, 0)
    native.run(kernels.of("linear", dtype), work, 2)
    assert (room[:32] == 7).all()
    assert (room[32 + 4 * 17 :] == 7).all()


@pytest.mark.parametrize("inputs", [12, 13])
def test_embedding_reads_the_packed_weight(ops, dtype, inputs):
    w = weight(50, inputs, dtype, bias=False)
    packed = ops._pack(w, embedding=True)
    ids = torch.tensor([0, 49, 31, 32, 7], dtype=torch.int32)
    assert torch.equal(ops.embedding(ids, packed), w.tensor[ids.long()])
    assert torch.equal(ops.embedding(ids, packed, 3.3), w.tensor[ids.long()] * torch.tensor(3.3, dtype=dtype))


def test_products_keep_infinities_and_nan_in_their_rows(ops, dtype):
    packed = ops._pack(weight(40, 7, dtype), embedding=False)
    x = torch.ones(3, 7, dtype=dtype)
    x[0, 3], x[2, 6] = float("inf"), float("nan")
    y = ops.linear(x, packed)
    assert y[0].isinf().all()
    assert y[1].isfinite().all()
    assert y[2].isnan().all()


def test_an_empty_batch(ops):
    assert ops.linear(torch.empty(0, 8), ops._pack(weight(17, 8), embedding=False)).shape == (0, 17)


def test_torch_and_the_kernels_share_one_pool_of_threads():
    """Two OpenMP libraries in one process would have two pools that fight for the cores."""
    native.library()
    with open("/proc/self/maps") as maps:
        pools = {line.split()[-1] for line in maps if "libgomp" in line or "libomp" in line}
    assert len(pools) == 1, pools
