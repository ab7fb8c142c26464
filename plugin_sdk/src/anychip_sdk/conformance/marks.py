"""What every check says of itself: since which suite version it counts, for which level, and for which profile."""

from __future__ import annotations

from typing import Any

import pytest

from anychip_sdk.conformance.levels import TIERS, Level, Tier


def check(
    *, since: str, level: Level = "silver", profile: str | None = None, tier: Tier = "quick", claim: str | None = None
) -> pytest.MarkDecorator:
    """Decorates a test of an area. profile: the test runs where the device declares what the profile needs. claim: the
    field of `Capabilities` that a failure says is not kept."""
    return pytest.mark.anychip(since=since, level=level, profile=profile, tier=tier, claim=claim)


def full(*values: Any) -> Any:
    """A parameter that `--quick` leaves out."""
    return pytest.param(*values, marks=pytest.mark.anychip_tier("full"))


def tier_of(item: pytest.Item) -> Tier:
    """The latest tier that the check and its parameters ask for."""
    asked = [m.args[0] for m in item.iter_markers("anychip_tier")]
    asked += [m.kwargs["tier"] for m in item.iter_markers("anychip")]
    return max(asked, key=TIERS.index)
