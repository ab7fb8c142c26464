"""One rank of the communicator's checks: `python -m anychip_sdk.conformance.ranks CASE --group M:F --rank R ...`.

The group function of a vendor opens one rank: `function(rank, size, rendezvous, timeout) -> Device`, whose communicator
is of the group. rendezvous: the path of a file that does not exist yet, the same for all ranks. timeout: seconds after
which a call that waits for others has to raise DeviceError."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from anychip_sdk.conformance import batches
from anychip_sdk.conformance.inputs import Given, linear, table
from anychip_sdk.conformance.lab import Array, Bench, Trio
from anychip_sdk.conformance.numerics import judge, rounded
from anychip_sdk.conformance.under_test import SuiteError
from anychip_sdk.contract import Batch, Communicator, ContractError, Device, DeviceError, DType

ROWS, WIDTH = 8, 48
"""Divisible by 1, 2 and 4 ranks along both axes."""

Call = Callable[[Communicator, Any], Any]


def open_rank(group: str, rank: int, size: int, rendezvous: str, timeout: float) -> Device:
    """Raises SuiteError where the group function gives no device of that rank."""
    module, _, function = group.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    device = getattr(import_module(module), function)(rank, size, rendezvous, timeout)
    if not isinstance(device, Device):
        raise SuiteError(f"--group {group} gave {device!r}; expected a Device of rank {rank} of {size}")
    c = device.communicator
    if (device.rank, device.size, c.rank, c.size) != (rank, size, rank, size):
        raise SuiteError(f"--group {group} gave rank {device.rank} of {device.size} for rank {rank} of {size}")
    return device


class Group:
    """This rank's arrays. Whole numbers below 128: their sums over four ranks are exact in any dtype."""

    def __init__(self, device: Device) -> None:
        self.device, self.c = device, device.communicator
        self.dtype: DType = device.capabilities.weight_dtypes[0]
        self._bench = Bench(device, self.dtype, {"x": table(self.brought(self.c.rank))})

    @staticmethod
    def brought(rank: int) -> Array:
        """What rank `rank` brings, [ROWS, WIDTH] float32."""
        x = np.random.default_rng(rank).integers(-30, 31, (ROWS, WIDTH))
        return x.astype(np.float32)

    def everyone(self) -> list[Array]:
        return [self.brought(rank) for rank in range(self.c.size)]

    def run(self, call: Call, shape: tuple[int, int]) -> Array:
        """call: of the communicator and this rank's array, inside a step. -> its result, of that shape."""
        batch = batches.rows(max(shape[0], ROWS), ids=np.arange(max(shape[0], ROWS)) % ROWS)
        batch.logit_rows[:] = np.minimum(np.arange(len(batch.logit_rows)), shape[0] - 1)

        def body(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
            x = ops.embedding(batch.token_ids, w["x"])
            x = ops.take(x, batch.token_seq[:ROWS])  # padding off
            return call(self.c, x), kv

        out = self._bench.run(body, batch, shape[1])
        return out[: shape[0]]

    def same(self, call: Call, wanted: Array, what: str) -> None:
        got = self.run(call, (wanted.shape[0], wanted.shape[1]))
        assert np.array_equal(got, wanted), f"rank {self.c.rank} of {self.c.size}: {what} is wrong"


def _broadcast(source: int, c: Communicator, x: Any) -> Any:
    return c.broadcast(x, source)


def _laws_along(g: Group, axis: int, brought: list[Array], total: Array) -> None:
    me, n = g.c.rank, g.c.size
    g.same(lambda c, x: c.all_gather(x, axis), np.concatenate(brought, axis), f"all_gather along {axis}")
    part = np.split(total, n, axis)[me]
    g.same(lambda c, x: c.reduce_scatter(x, axis), part, f"reduce_scatter along {axis}")
    g.same(
        lambda c, x: c.all_gather(c.reduce_scatter(x, axis), axis), total, f"all_gather of reduce_scatter along {axis}"
    )
    sent = np.concatenate([np.split(b, n, axis)[me] for b in brought], axis)
    g.same(lambda c, x: c.all_to_all(x, axis), sent, f"all_to_all along {axis}")
    g.same(lambda c, x: c.all_to_all(c.all_to_all(x, axis), axis), brought[me], f"all_to_all twice along {axis}")


def laws(g: Group) -> None:
    """Each collective against its definition, and the algebra between them."""
    brought, n = g.everyone(), g.c.size
    total = sum(brought[1:], start=brought[0])
    g.same(lambda c, x: c.all_reduce(x), total, "all_reduce")
    for axis in (0, 1):
        _laws_along(g, axis, brought, total)
    for source in range(n):
        g.same(partial(_broadcast, source), brought[source], f"broadcast from {source}")
    for _ in range(3):
        g.same(lambda c, x: c.all_reduce(x), total, "all_reduce again")
    g.c.barrier()


def strided(g: Group) -> None:
    """Views with any strides, where arrays can be sliced; and what was brought stays as it was."""
    brought = g.everyone()
    total = sum(brought[1:], start=brought[0])
    g.same(lambda c, x: c.all_reduce(x[:, ::2]), total[:, ::2], "all_reduce of every second column")
    g.same(lambda c, x: c.all_reduce(x[::2, 8:24]), total[::2, 8:24], "all_reduce of a block")
    g.same(
        lambda c, x: c.all_gather(x[:, ::3], 1), np.concatenate([b[:, ::3] for b in brought], 1),
        "all_gather of every third column",
    )  # fmt: skip
    g.same(lambda c, x: c.broadcast(x[1::2], 0), brought[0][1::2], "broadcast of every second row")

    def kept(c: Communicator, x: Any) -> Any:
        c.all_reduce(x)
        c.broadcast(x, 0)
        return x

    g.same(kept, brought[g.c.rank], "what this rank brought, after an all_reduce of it,")


def pairs(g: Group) -> None:
    """Each even rank sends to the next; then everyone passes on around the ring."""
    brought, me, n = g.everyone(), g.c.rank, g.c.size

    def swap(c: Communicator, x: Any) -> Any:
        if me % 2 == 0:
            c.send(x, me + 1)
            return x
        return c.receive(x, me - 1)

    g.same(swap, brought[me - me % 2], "send and receive")

    def ring(c: Communicator, x: Any) -> Any:
        after, before = (me + 1) % n, (me - 1) % n
        if me == 0:
            c.send(x, after)
            return c.receive(x, before)
        got = c.receive(x, before)
        c.send(x, after)
        return got

    g.same(ring, brought[(me - 1) % n], "a ring of send and receive")


def mismatch(g: Group) -> None:
    """Ranks that differ in shape, or in what they call, get an error and no numbers."""
    me = g.c.rank
    calls: dict[str, Call] = {
        "all_reduce of different shapes": lambda c, x: c.all_reduce(x[: ROWS - me]),
        "all_gather of different widths": lambda c, x: c.all_gather(x[:, : WIDTH - me], 0),
        "all_reduce on one rank, all_gather on the others": (
            lambda c, x: c.all_reduce(x) if me == 0 else c.all_gather(x, 0)
        ),
    }
    for what, call in calls.items():
        try:
            g.run(call, (1, 1))
        except DeviceError:
            continue
        raise AssertionError(f"rank {me}: {what} went through without an error")


def uneven(g: Group) -> None:
    """An axis that the ranks do not divide is refused before anything is sent."""
    calls: dict[str, Call] = {
        "reduce_scatter": lambda c, x: c.reduce_scatter(x[: ROWS - 1], 0),
        "all_to_all": lambda c, x: c.all_to_all(x[: ROWS - 1], 0),
    }
    for name, call in calls.items():
        try:
            g.run(call, (1, 1))
        except (ContractError, DeviceError):
            continue
        raise AssertionError(f"{name} of {ROWS - 1} rows over {g.c.size} ranks went through without an error")


def dead(g: Group) -> None:
    """The last rank dies without a word; the others hear of it."""
    g.c.barrier()
    if g.c.rank == g.c.size - 1:
        os._exit(0)
    try:
        g.run(lambda c, x: c.all_reduce(x), (ROWS, WIDTH))
    except DeviceError:
        return
    raise AssertionError(f"rank {g.c.rank}: all_reduce without the last rank went through")


def tensor_parallel(g: Group) -> None:
    """Sharded weights compute what whole ones do: `linear` with tp="in" gives the full sum, `logits` every output, and
    `greedy_logits` of each row the largest there is on any rank."""
    rng, dtype = np.random.default_rng(9), g.dtype
    x, up, down, head = (
        rounded(rng.standard_normal(shape) * 0.3, dtype)
        for shape in ((ROWS, 32), (2, 64, 32), (32, 64), (4 * 13 - 2, 32))
    )

    def given(x: Array, tp: Any, head: bool = False) -> Given:
        whole = linear(*x) if x.ndim == 3 else linear(x)
        return Given(replace(whole.spec, tp=tp, head=head), whole.tensors)

    weights = {"x": table(x), "up": given(up, "out"), "down": given(down, "in"), "head": given(head, "out", head=True)}
    trio = Trio(g.device, dtype, weights)

    def mlp(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        return ops.gated_mlp(ops.embedding(batch.token_ids, w["x"]), w["up"], w["down"], "silu"), kv

    def logits(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        return ops.logits(ops.embedding(batch.token_ids, w["x"]), w["head"]), kv

    def greedy(ops: Any, w: Any, batch: Any, kv: Any) -> tuple[Any, Any]:
        return ops.greedy_logits(ops.embedding(batch.token_ids, w["x"]), w["head"]), kv

    for body, width in ((mlp, 32), (logits, None)):
        verdict = judge(*trio.run(body, _wide(head.shape[0]), width), dtype)
        assert verdict.passed, f"rank {g.c.rank}: {body.__name__} over {g.c.size} ranks: {verdict.explain()}"
    wanted, got = (trio.device.run(body, _wide(head.shape[0]), None) for body in (logits, greedy))
    for y, found in zip(wanted, got, strict=True):
        same = np.array_equal(y == y.max(), found == y.max()) and found.max() == y.max()
        assert same, f"rank {g.c.rank}: greedy_logits over {g.c.size} ranks has other largest ones than logits"


def _wide(columns: int) -> Batch:
    batch = batches.rows(ROWS)
    batch.key = replace(batch.key, sample=replace(batch.key.sample, logprobs=columns))
    return batch


CASES = {f.__name__: f for f in (laws, strided, pairs, mismatch, uneven, dead, tensor_parallel)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m anychip_sdk.conformance.ranks")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--group", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--rendezvous", required=True)
    parser.add_argument("--timeout", type=float, required=True)
    o = parser.parse_args()
    group = Group(open_rank(o.group, o.rank, o.size, o.rendezvous, o.timeout))
    try:
        CASES[o.case](group)
    except AssertionError as error:
        sys.stdout.write(f"failed: {error}\n")
        return 1
    sys.stdout.write("ok\n")
    sys.stdout.flush()
    os._exit(0)  # a group one of whose ranks is dead may hang in its own clean-up


if __name__ == "__main__":
    sys.exit(main())
