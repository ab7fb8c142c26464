"""Whom the events of a step belong to."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from anychip.engine.core import EngineCore, Event
from anychip.request import Request


class Owner(Protocol):
    """A `RequestText`, or what stands for one."""

    @property
    def requests(self) -> list[Request]: ...

    def push(self, event: Event) -> bool:
        """As `RequestText.push`."""


OwnerT = TypeVar("OwnerT", bound=Owner)


class Running(Generic[OwnerT]):
    """The owners of all requests that run in a core. For one thread at a time."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core
        self._owner: dict[Request, OwnerT] = {}

    def __len__(self) -> int:
        """How many requests have an owner."""
        return len(self._owner)

    def add(self, owner: OwnerT) -> None:
        """Its requests begin to wait for their turn."""
        self._owner.update(dict.fromkeys(owner.requests, owner))
        self._core.add(owner.requests)

    def cancel(self, owner: OwnerT) -> None:
        """Its requests give back their pages; those that are finished are left as they are."""
        for request in owner.requests:
            self._core.cancel(request)
            self._owner.pop(request, None)

    def step(self) -> list[OwnerT]:
        """One engine step. Returns the owners it moved, each once."""
        moved: dict[OwnerT, None] = {}
        for event in self._core.step():
            owner = self._owner.get(event.request)
            if owner is None:
                continue
            if owner.push(event):
                self._core.cancel(event.request, "stop")
            if event.request.finish_reason is not None:
                del self._owner[event.request]
            moved[owner] = None
        return list(moved)
