"""The pending result of a device whose steps have ended when they were launched."""

from __future__ import annotations

from dataclasses import dataclass

from anychip_sdk.contract import Sampled


@dataclass(frozen=True)
class Done:
    """A `Pending` that is there already. `sampled`: arrays of numpy."""

    sampled: Sampled

    def get(self) -> Sampled:
        return self.sampled
