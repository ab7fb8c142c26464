"""One rank of test_torch_communicator: `python torch_rank.py CASE RANK SIZE STORE`. Prints `ok`, or a traceback."""

from __future__ import annotations

import re
import sys
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from anychip_sdk.contract import Capabilities, ContractError, DeviceError, DeviceInfo, MoESpec, WeightSpec
from anychip_sdk.kits.torch import TorchCommunicator, TorchDevice


def arrays(rank: int) -> list[torch.Tensor]:
    """Integers, so that sums are exact: contiguous, strided, transposed, expanded, sliced, empty."""
    x = torch.arange(48.0).reshape(4, 12) * (rank + 1)
    return [x, x[:, ::3], x.t(), x[:1].expand(4, 12), x[::2, 4:8], x[:0], x[:, :0], x.to(torch.bfloat16)]


def laws(c: TorchCommunicator) -> None:
    every = list(zip(*(arrays(r) for r in range(c.size)), strict=True))  # what each rank brings
    for mine, brought in zip(arrays(c.rank), every, strict=True):
        before, total = mine.clone(), sum(brought)
        same(c.all_reduce(mine), total)
        for axis in (0, 1):
            same(c.all_gather(mine, axis), torch.cat(brought, dim=axis))
            if mine.shape[axis] % c.size == 0:
                same(c.reduce_scatter(mine, axis), total.chunk(c.size, dim=axis)[c.rank])
                same(c.all_gather(c.reduce_scatter(mine, axis), axis), total)
                sent = torch.cat([b.chunk(c.size, dim=axis)[c.rank] for b in brought], dim=axis)
                same(c.all_to_all(mine, axis), sent)
                same(c.all_to_all(c.all_to_all(mine, axis), axis), mine)
        for source in range(c.size):
            same(c.broadcast(mine, source), brought[source])
        if c.rank == 0:
            c.send(mine, 1)
        elif c.rank == 1:
            same(c.receive(mine, 0), brought[0])
        assert mine.equal(before)
    c.barrier()


def same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    assert got.equal(wanted)


def mismatches(c: TorchCommunicator) -> None:
    """Every one raises on every rank, and the group still works after it."""
    x = torch.ones(4 + c.rank)
    typed = torch.ones(4, dtype=torch.float64 if c.rank else torch.float32)
    for call in (
        lambda: c.all_reduce(x),
        lambda: c.all_reduce(typed),
        lambda: c.all_gather(x, 0),
        lambda: c.all_gather(torch.ones(2, 2), c.rank),
        lambda: c.broadcast(x, 0),
        lambda: c.broadcast(torch.ones(2), c.rank),
        lambda: c.all_to_all(torch.ones(2 + 2 * c.rank), 0),
        lambda: c.barrier() if c.rank else c.all_reduce(torch.ones(3)),
    ):
        refused(DeviceError, call, f"rank {c.rank} of 2 calls")
        same(c.all_reduce(torch.ones(2)), torch.full((2,), 2.0))
    if c.rank == 0:
        c.send(torch.ones(5), 1)
        c.send(torch.ones(3), 1)
    else:
        refused(DeviceError, lambda: c.receive(torch.ones(4), 0), "rank 0 sent an array of another shape")
        same(c.receive(torch.empty(3), 0), torch.ones(3))
    refused(ContractError, lambda: c.reduce_scatter(torch.ones(3), 0), "axis 0 of [3] is not divisible by 2")
    refused(ContractError, lambda: c.all_to_all(torch.ones(3), 0), "axis 0 of [3] is not divisible by 2")
    refused(ContractError, lambda: c.broadcast(torch.ones(3), 2), "there is no rank 2; the group has 2")


def refused(kind: type[Exception], call, words: str) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        call()


def gone(c: TorchCommunicator) -> None:
    """Rank 1 leaves; rank 0 gets an error instead of waiting for ever."""
    c.barrier()  # a rank that leaves while the other connects ends the start of the group, and not a call
    if c.rank == 0:
        refused(DeviceError, lambda: c.all_reduce(torch.ones(2)), "rank 0 of 2: ")


def tensor_parallel(c: TorchCommunicator) -> None:
    """A device of this rank computes what a device alone does."""
    rng = np.random.default_rng(0)
    E, M, X, V = 12, 8, 4, 11  # V does not divide
    tensors = {"up.w": (M, E), "gate.w": (M, E), "down.w": (E, M), "head": (V, E), "router": (X, E)}
    tensors |= {f"{e}.{n}": s for e in range(X) for n, s in (("g", (M, E)), ("u", (M, E)), ("d", (E, M)))}
    tensors |= {"up.b": (M,), "gate.b": (M,), "down.b": (E,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in tensors.items()}
    stack = {n: tuple(f"{e}.{n}" for e in range(X)) for n in "gud"}
    claims = Capabilities(weight_dtypes=("float32",), kv_dtypes=("float32",))
    info = DeviceInfo(name="torch", description="", details={})
    x = torch.from_numpy(rng.standard_normal((5, E)).astype(np.float32))
    results = []
    for device in (TorchDevice(info, claims, "cpu"), TorchDevice(info, claims, "cpu", c)):

        def pack(spec: WeightSpec, device: TorchDevice = device):
            return device.pack(spec, lambda name, index=(): arrays[name][index], tensors, "float32")

        gate_up = pack(WeightSpec((("gate.w",), ("up.w",)), "linear", tp="out", bias=("gate.b", "up.b")))
        down = pack(WeightSpec((("down.w",),), "linear", tp="in", bias=("down.b",)))
        head = pack(WeightSpec((("head",),), "linear", tp="out"))
        routed = [WeightSpec((("router",),), "linear"), WeightSpec((stack["g"], stack["u"]), "experts", tp="out")]
        experts = [pack(s) for s in (*routed, WeightSpec((stack["d"],), "experts", tp="in"))]
        spec = MoESpec(experts=X, top_k=2, renormalize=True, activation="silu")
        ops = device.ops
        results.append((ops.gated_mlp(x, gate_up, down, "silu"), ops.logits(x, head), ops.moe(x, *experts, spec, None)))
    for alone, together in zip(*results, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def main() -> None:
    case, rank, size, store = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=30)
    )
    globals()[case](TorchCommunicator())
    dist.destroy_process_group()  # its threads must not outlive the interpreter
    print("ok", flush=True)


if __name__ == "__main__":
    main()
