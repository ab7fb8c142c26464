"""Collectives over torch.distributed (gloo, nccl and the like)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from anychip_sdk.contract import Communicator, ContractError, DeviceError


class TorchCommunicator(Communicator):
    """Over an initialised process group, whose timeout is the one of every call here. Only collectives that every
    backend has are used."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def all_reduce(self, x: Tensor) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        if y.numel():
            self._run(lambda: dist.all_reduce(y, group=self._group))
        return y

    def all_gather(self, x: Tensor, axis: int) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        if x.numel():
            self._run(lambda: dist.all_gather(parts, x.contiguous(), group=self._group))
        return torch.cat(parts, dim=axis)

    def reduce_scatter(self, x: Tensor, axis: int) -> Tensor:
        return self._split(self.all_reduce(x), axis)[self.rank].contiguous()

    def broadcast(self, x: Tensor, source: int) -> Tensor:
        self._check_rank(source)
        y = x.clone(memory_format=torch.contiguous_format)
        if y.numel():
            self._run(lambda: dist.broadcast(y, src=self._global(source), group=self._group))
        return y

    def all_to_all(self, x: Tensor, axis: int) -> Tensor:
        pieces = self._split(x, axis)
        gathered = [self.all_gather(piece.unsqueeze(0), 0) for piece in pieces]  # [size, ...] each
        return torch.cat(list(gathered[self.rank]), dim=axis)

    def send(self, x: Tensor, to: int) -> None:
        self._check_rank(to)
        if x.numel():
            self._run(lambda: dist.send(x.contiguous(), dst=self._global(to), group=self._group))

    def receive(self, like: Tensor, source: int) -> Tensor:
        self._check_rank(source)
        y = torch.empty_like(like, memory_format=torch.contiguous_format)
        if y.numel():
            self._run(lambda: dist.recv(y, src=self._global(source), group=self._group))
        return y

    def barrier(self) -> None:
        self._run(lambda: dist.barrier(group=self._group))

    def _split(self, x: Tensor, axis: int) -> list[Tensor]:
        if x.shape[axis] % self.size:
            raise ContractError(f"axis {axis} of {list(x.shape)} is not divisible by {self.size} ranks")
        return list(x.chunk(self.size, dim=axis))

    def _global(self, rank: int) -> int:
        return rank if self._group is None else dist.get_global_rank(self._group, rank)

    def _check_rank(self, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise ContractError(f"there is no rank {rank}; the group has {self.size}")

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except RuntimeError as error:  # timeouts, dead peers and mismatches all come as one of these
            raise DeviceError(f"rank {self.rank} of {self.size}: {str(error).splitlines()[0]}") from error
