"""A group of one rank, for arrays of any framework."""

from __future__ import annotations

from typing import Any

from anychip_sdk.contract import Communicator, ContractError


class Solo(Communicator):
    """Every collective of one rank gives back what it got. There is nobody to send to: `send`, `receive` and a
    broadcast from another rank raise ContractError."""

    rank = 0
    size = 1

    def all_reduce(self, x: Any) -> Any:
        return x

    def all_gather(self, x: Any, axis: int) -> Any:
        return x

    def reduce_scatter(self, x: Any, axis: int) -> Any:
        return x

    def broadcast(self, x: Any, source: int) -> Any:
        if source != 0:
            raise ContractError(f"cannot broadcast from rank {source}: the group has one rank, 0")
        return x

    def all_to_all(self, x: Any, axis: int) -> Any:
        return x

    def send(self, x: Any, to: int) -> None:
        raise ContractError(f"cannot send to rank {to}: the group has one rank; open a group of two or more")

    def receive(self, like: Any, source: int) -> Any:
        raise ContractError(f"cannot receive from rank {source}: the group has one rank; open a group of two or more")

    def barrier(self) -> None:
        return None
