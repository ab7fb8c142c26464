"""Collectives over torch.distributed (gloo, nccl and the like)."""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from anychip_sdk.contract import Communicator, ContractError, DeviceError


class TorchCommunicator(Communicator):
    """Over an initialised process group, whose timeout is the one of every call here. Only collectives that every
    backend has are used.

    Arrays on the host are announced first: the ranks compare the call, dtype and shape (16 bytes each), because gloo
    ends the process or gives wrong numbers where sizes differ. On an accelerator that would cost a round trip to the
    host in every call, so there a mismatch is found by the backend or its timeout."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def all_reduce(self, x: Tensor) -> Tensor:
        self._announce("all_reduce", x)
        y = x.clone(memory_format=torch.contiguous_format)
        if y.numel():
            self._run(lambda: dist.all_reduce(y, group=self._group))
        return y

    def all_gather(self, x: Tensor, axis: int) -> Tensor:
        self._announce(f"all_gather {axis}", x)
        return torch.cat(self._gather(x), dim=axis)

    def reduce_scatter(self, x: Tensor, axis: int) -> Tensor:
        self._check_axis(x, axis)
        return self.all_reduce(x).chunk(self.size, dim=axis)[self.rank].contiguous()

    def broadcast(self, x: Tensor, source: int) -> Tensor:
        self._check_rank(source)
        self._announce(f"broadcast {source}", x)
        y = x.clone(memory_format=torch.contiguous_format)
        if y.numel():
            self._run(lambda: dist.broadcast(y, src=self._global(source), group=self._group))
        return y

    def all_to_all(self, x: Tensor, axis: int) -> Tensor:
        self._check_axis(x, axis)
        self._announce(f"all_to_all {axis}", x)
        pieces = torch.stack(x.chunk(self.size, dim=axis))  # [ranks, ...]
        out = torch.empty_like(pieces)
        if x.numel():
            self._run(lambda: dist.all_to_all_single(out, pieces, group=self._group))
        return torch.cat(list(out), dim=axis)

    def send(self, x: Tensor, to: int) -> None:
        self._check_rank(to)
        if x.device.type == "cpu":
            self._run(lambda: dist.send(_signature("send", x), dst=self._global(to), group=self._group))
        if x.numel():
            self._run(lambda: dist.send(x.contiguous(), dst=self._global(to), group=self._group))

    def receive(self, like: Tensor, source: int) -> Tensor:
        self._check_rank(source)
        y = torch.empty_like(like, memory_format=torch.contiguous_format)
        wanted = _signature("send", y)
        if y.device.type == "cpu":
            got = torch.empty_like(wanted)
            self._run(lambda: dist.recv(got, src=self._global(source), group=self._group))
            if not got.equal(wanted):
                self._drain(int(got[1]), source)
                raise DeviceError(
                    f"rank {self.rank} of {self.size}: rank {source} sent an array of another shape or dtype than "
                    f"{list(y.shape)} {y.dtype}"
                )
        if y.numel():
            self._run(lambda: dist.recv(y, src=self._global(source), group=self._group))
        return y

    def barrier(self) -> None:
        self._announce("barrier", torch.empty(0))
        self._run(lambda: dist.barrier(group=self._group))

    def _gather(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        if x.numel():
            self._run(lambda: dist.all_gather(parts, x.contiguous(), group=self._group))
        return parts

    def _announce(self, call: str, x: Tensor) -> None:
        """Raises DeviceError on every rank where two ranks differ in call, dtype or shape."""
        if x.device.type != "cpu":
            return
        mine = _signature(call, x)
        theirs = self._gather(mine)
        for rank, other in enumerate(theirs):
            if not other.equal(mine):
                raise DeviceError(
                    f"rank {self.rank} of {self.size} calls {call} with {list(x.shape)} {x.dtype}, rank {rank} makes "
                    "another call or brings another shape or dtype; every rank must do the same"
                )

    def _drain(self, size: int, source: int) -> None:
        """Takes what a mismatched send put on the wire, so that the next receive does not get it."""
        if size:
            self._run(lambda: dist.recv(torch.empty(size, dtype=torch.uint8), self._global(source), self._group))

    def _check_axis(self, x: Tensor, axis: int) -> None:
        if x.shape[axis] % self.size:
            raise ContractError(f"axis {axis} of {list(x.shape)} is not divisible by {self.size} ranks")

    def _global(self, rank: int) -> int:
        return rank if self._group is None else dist.get_global_rank(self._group, rank)

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise ContractError(f"there is no rank {rank}; the group has {self.size}")

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:  # timeouts and dead peers come as one of these
            raise DeviceError(f"rank {self.rank} of {self.size}: {str(error).splitlines()[0]}") from error


def _signature(call: str, x: Tensor) -> Tensor:
    """[2] int64: a checksum of call, dtype and shape; bytes that follow."""
    return torch.tensor([crc32(f"{call} {x.dtype} {list(x.shape)}".encode()), x.numel() * x.element_size()])
