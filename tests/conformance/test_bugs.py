"""The suite catches every seeded bug, and by the check that the kill table names."""

from __future__ import annotations

import kill_table
import pytest
from bugs import BUGS

ROWS = kill_table.TABLE.read_text(encoding="utf-8").splitlines()[kill_table.HEAD.count("\n") :]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_it_is_caught(name):
    named = [row for row in ROWS if row.startswith(f"| {kill_table.title(name)} |")]
    assert len(named) == 1, f"the table has {len(named)} rows of it; run python tests/conformance/kill_table.py"
    check = named[0].split("`")[1]
    assert kill_table.caught_by(name, only=check) == check, f"{check} did not catch it: {BUGS[name].what}"
    assert named[0] == kill_table.row(name, check), "the table is old; run python tests/conformance/kill_table.py"


def test_the_table_has_no_other_rows():
    assert len(ROWS) == len(BUGS) >= 25
    assert kill_table.TABLE.read_text(encoding="utf-8").startswith(kill_table.HEAD)
