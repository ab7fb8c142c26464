"""How levels and profiles are judged. This is the one place that decides it; the documents quote it.

Levels, each with everything of the one before it:

- **Bronze**: it runs. The plugin is found and keeps the contract's form, its ops compute what they should, and tiny
  models give the oracle's tokens.
- **Silver**: it serves. Attention over pages in every shape, KV writes, allocator, communicator, determinism, faults.
- **Gold**: production. Batch invariance is declared and true, groups of four ranks work, the soak and the speed floor
  are passed, and there are no waivers. Only a `--certify` run awards it.

Every check belongs to one level. A level is reached when no check of it, or of a level below it, has failed. A check of
a capability that the device does not declare is not run; that the device refuses cleanly what it does not declare is
a check of its own. What is declared must work: a wrong claim is a failure whatever the level of the check.

A waived failure counts as passed for Bronze and Silver; a run with waivers in use is never Gold.

Profiles say what a level is worth for a kind of model. A profile applies where the device declares its capability, and
is reached when all of its checks have passed. Profiles whose capability the contract does not have yet are listed as
not applicable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from anychip_sdk.contract import SCALED_KV, Capabilities

Level = Literal["bronze", "silver", "gold"]
Tier = Literal["quick", "full", "certify"]
TIERS: tuple[Tier, ...] = ("quick", "full", "certify")
"""How much is run: each tier includes those before it."""

LEVELS: tuple[Level, ...] = ("bronze", "silver", "gold")

PROFILES: Mapping[str, Callable[[Capabilities], bool] | None] = {
    "swa": lambda claims: claims.sliding_window,
    "softcap": lambda claims: claims.softcap,
    "sinks": lambda claims: claims.sinks,
    "moe": lambda claims: claims.moe,
    "quant": lambda claims: bool(claims.quantize),
    "kv8": lambda claims: bool(set(claims.kv_dtypes) & set(SCALED_KV)),
    "mla": None,
    "lora": None,
}
"""Profile -> whether these capabilities declare it; None where the contract has no such capability yet."""

AREAS: tuple[str, ...] = (
    "discovery", "ops", "sampling", "attention", "kv_write", "allocator", "communicator", "executor", "determinism",
    "faults", "speed",
)  # fmt: skip

SPEED_FLOOR = 0.3
"""For Gold: the share of what the device's own large products reach that a stack of layers must reach."""

NEEDED: Mapping[Level, frozenset[str]] = {
    "bronze": frozenset({"discovery", "ops", "executor"}),
    "silver": frozenset(AREAS) - {"speed"},
    "gold": frozenset(AREAS),
}
"""Areas that a run must include for the level to be awarded."""


@dataclass(frozen=True)
class Outcome:
    """What the judge needs to know of one check."""

    level: Level
    profile: str | None
    failed: bool
    waived: bool


def judge_level(outcomes: Iterable[Outcome], areas: Iterable[str], tier: Tier) -> tuple[Level | None, str]:
    """-> the highest level reached (None: not even Bronze), and what keeps it from the next one."""
    outcomes, ran = list(outcomes), frozenset(areas)
    reached: Level | None = None
    for level in LEVELS:
        why = _misses(level, outcomes, ran, tier)
        if why:
            return reached, f"{level}: {why}"
        reached = level
    return reached, ""


def _misses(level: Level, outcomes: list[Outcome], areas: frozenset[str], tier: Tier) -> str:
    """Why the level is not reached, given that the ones below it are; empty if it is."""
    missing = sorted(NEEDED[level] - areas)
    if missing:
        return f"not run: {', '.join(missing)}"
    if level == "gold" and tier != "certify":
        return "only a --certify run awards it"
    if level == "gold" and any(o.waived for o in outcomes):
        return "waivers are in use"
    failed = sum(o.failed and not o.waived and o.level == level for o in outcomes)
    return f"{failed} of its checks failed" if failed else ""


def level_name(report: Mapping[str, Any]) -> str:
    """How to call the level of a report.json: a run of some areas only says nothing about any level."""
    if report["level"]:
        return str(report["level"]).capitalize()
    return "not conformant" if set(report["areas"]) >= NEEDED["bronze"] else "partial run"


def judge_profiles(outcomes: Iterable[Outcome], claims: Capabilities) -> dict[str, str]:
    """Profile -> passed, failed, not declared, or not applicable."""
    outcomes = list(outcomes)
    found = {}
    for profile, declared in PROFILES.items():
        if declared is None:
            found[profile] = "not applicable: the contract has no such capability yet"
        elif not declared(claims):
            found[profile] = "not declared"
        else:
            mine = [o for o in outcomes if o.profile == profile]
            bad = any(o.failed and not o.waived for o in mine)
            found[profile] = "failed" if bad else "passed" if mine else "not run"
    return found
