"""What "How levels and profiles are judged" and "What versions promise" say is what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from math import log2

import pytest
from anychip_sdk.conformance.levels import AREAS, LEVELS, NEEDED, PROFILES, SPEED_FLOOR
from anychip_sdk.conformance.numerics import EPS, nmse_ceiling
from anychip_sdk.conformance.runner import TIME_LIMITS
from anychip_sdk.conformance.version import SUITE_VERSION
from anychip_sdk.conformance.waivers import Waiver, read_waivers
from anychip_sdk.contract import CONTRACT_VERSION, Version
from anychip_sdk.contract.version import runs, supported
from pages import DOCS

LEVELS_PAGE = (DOCS / "vendors/levels.md").read_text(encoding="utf-8")
VERSIONS_PAGE = (DOCS / "vendors/versioning.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("` "): [cell.strip() for cell in cells[1:]]
    for line in LEVELS_PAGE.splitlines()
    if line.startswith("|") and (cells := line.strip("|").split("|"))
}
"""First cell of every table's rows -> the others."""


def test_every_area_has_a_row():
    assert [first for first in ROWS if first in AREAS] == list(AREAS)
    assert f"Three of its {'eleven' if len(AREAS) == 11 else len(AREAS)} areas" in (
        DOCS / "vendors/seven_steps.md"
    ).read_text(encoding="utf-8")


def test_the_levels_need_what_the_page_says():
    assert [level.capitalize() in ROWS for level in LEVELS] == [True] * 3
    assert set(re.findall(r"`(\w+)`", ROWS["Bronze"][1])) == NEEDED["bronze"]
    assert "all areas but `speed`" in ROWS["Silver"][1]
    assert NEEDED["silver"] == set(AREAS) - {"speed"}
    assert "a `--certify` run of all areas" in ROWS["Gold"][1]
    assert NEEDED["gold"] == set(AREAS)
    assert f"at least {SPEED_FLOOR} of the speed" in LEVELS_PAGE


def test_every_profile_is_named():
    declared = [name for name, capability in PROFILES.items() if capability is not None]
    assert [first for first in ROWS if first in PROFILES] == declared
    later = [name for name in PROFILES if name not in declared]
    assert f"{', '.join(f'`{n}`' for n in later[:-1])} and `{later[-1]}` are names kept for later" in LEVELS_PAGE


def test_the_limits_of_the_tiers():
    limits = {"--quick": "quick", "(none)": "full", "--certify": "certify"}
    assert {option: ROWS[option][1] for option in limits} == {
        option: f"{TIME_LIMITS[tier] / 60:g} minutes" for option, tier in limits.items()
    }


@pytest.mark.parametrize("dtype", EPS)
def test_one_unit_in_the_last_place(dtype):
    eps = max(EPS[dtype], EPS["float32"])
    assert ROWS[dtype][0].split(",")[0] == f"2^{log2(eps):.0f}"
    assert nmse_ceiling(dtype) == (16 * eps) ** 2


def test_the_page_s_waiver_is_read(tmp_path):
    (example,) = re.findall(r"~~~toml\n(.*?)~~~", LEVELS_PAGE, re.DOTALL)
    file = tmp_path / "waivers.toml"
    file.write_text(re.sub(r"expiry = .*", "expiry = 2999-12-31", example))
    (waiver,) = read_waivers(file).values()
    assert all(f"{field.name} = " in example for field in fields(Waiver))
    assert waiver.link == "https://example.org/acme/issues/12"


@pytest.mark.parametrize(
    ("theirs", "ours", "run"),
    [
        ((1, 0), (1, 0), True),
        ((1, 3), (1, 5), True),
        ((1, 5), (1, 3), False),
        ((1, 0), (2, 1), True),
        ((1, 9), (2, 0), True),
        ((1, 0), (3, 0), False),
        ((2, 0), (1, 0), False),
        ((0, 9), (1, 0), False),
    ],
)
def test_which_plugins_an_engine_runs(theirs, ours, run):
    assert runs(Version(*theirs), Version(*ours)) is run


def test_the_refusal_it_shows_is_the_engine_s():
    assert f"is written for contract 1.0, this anychip has 3.0 and runs {supported(Version(3, 0))}" in VERSIONS_PAGE


def test_there_is_one_major_so_far():
    """With the second one the page has another story to tell, and tests/compat another wheel."""
    assert "1.0 is the first major" in VERSIONS_PAGE
    assert CONTRACT_VERSION.major == SUITE_VERSION.major == 1
