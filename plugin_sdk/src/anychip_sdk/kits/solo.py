"""A group of one rank."""

from __future__ import annotations

from typing import Any

from anychip_sdk.contract import Communicator, ContractError


class Solo(Communicator):
    """Every collective of one rank gives back what it got; there is nobody to send to."""

    rank = 0
    size = 1

    def all_reduce(self, x: Any) -> Any:
        return x

    def all_gather(self, x: Any, axis: int) -> Any:
        return x

    def reduce_scatter(self, x: Any, axis: int) -> Any:
        return x

    def broadcast(self, x: Any, source: int) -> Any:
        self._check(source)
        return x

    def all_to_all(self, x: Any, axis: int) -> Any:
        return x

    def send(self, x: Any, to: int) -> None:
        raise ContractError(f"cannot send to rank {to}: the group has one rank")

    def receive(self, like: Any, source: int) -> Any:
        raise ContractError(f"cannot receive from rank {source}: the group has one rank")

    def barrier(self) -> None:
        return None

    def _check(self, rank: int) -> None:
        if rank != 0:
            raise ContractError(f"there is no rank {rank}: the group has one rank")
