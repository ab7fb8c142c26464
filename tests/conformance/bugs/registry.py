"""The list of seeded bugs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Plant = Callable[[Any], None]


@dataclass(frozen=True)
class Bug:
    """`what`: one line for the kill table. `area`: whose checks must catch it. `plant` changes an open device, and the
    core too where the bug is one that only whole engines show: every bug has a process of its own. `base`: numpy or
    torch, or group for one whose device is a rank of several. `limit`: seconds the area gets, short where the bug is
    one that hangs. `only`: the one check that is run, where those before it would use up that time."""

    name: str
    what: str
    area: str
    plant: Plant
    base: str = "numpy"
    limit: float = 120
    only: str | None = None


BUGS: dict[str, Bug] = {}


def bug(area: str, what: str, **fields: Any) -> Callable[[Plant], Plant]:
    """Registers a function that plants a bug, under its own name. fields: of `Bug`."""

    def register(plant: Plant) -> Plant:
        assert plant.__name__ not in BUGS
        BUGS[plant.__name__] = Bug(plant.__name__, what, area, plant, **fields)
        return plant

    return register


from bugs import attention, communication, engine, kv8, memory, ops, quantised, sampling  # noqa: E402, F401 - they register
