"""The communicator interface: collectives of one group of ranks."""

from __future__ import annotations

from abc import abstractmethod

from anychip_sdk.contract.batch import Array
from anychip_sdk.contract.checked import Checked


class Communicator(Checked):
    """Used by ops and devices, never by models. Every rank calls the same method with the same shapes; a mismatch,
    a dead peer or a timeout raises DeviceError on the ranks that live. Arrays may have any strides and zero size."""

    rank: int
    size: int

    @abstractmethod
    def all_reduce(self, x: Array) -> Array:
        """The sum over ranks; same shape and dtype."""

    @abstractmethod
    def all_gather(self, x: Array, axis: int) -> Array:
        """Every rank's x, joined along `axis` in rank order."""

    @abstractmethod
    def reduce_scatter(self, x: Array, axis: int) -> Array:
        """This rank's slice along `axis` of the sum over ranks. Raises ContractError where it does not divide."""

    @abstractmethod
    def broadcast(self, x: Array, source: int) -> Array:
        """Rank `source`'s x; elsewhere x gives shape and dtype only."""

    @abstractmethod
    def all_to_all(self, x: Array, axis: int) -> Array:
        """Slice r of x along `axis` goes to rank r; what came in is joined along `axis` in rank order."""

    @abstractmethod
    def send(self, x: Array, to: int) -> None:
        """Pairs with `receive` on rank `to`."""

    @abstractmethod
    def receive(self, like: Array, source: int) -> Array:
        """An array with the shape and dtype of `like`."""

    @abstractmethod
    def barrier(self) -> None:
        """Returns when every rank has called it."""
