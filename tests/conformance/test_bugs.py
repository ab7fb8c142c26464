"""The suite catches every seeded bug, and by the check that the kill table names."""

from __future__ import annotations

import kill_table
import pytest
from bugs import BUGS

ROWS = kill_table.TABLE.read_text(encoding="utf-8").splitlines()[kill_table.HEAD.count("\n") :]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_it_is_caught(name):
    check = kill_table.caught_by(name)
    assert check, f"no check of {BUGS[name].area} caught it: {BUGS[name].what}"
    assert kill_table.row(name, check) in ROWS, (
        f"{check} caught it, and the table says otherwise; run python tests/conformance/kill_table.py"
    )


def test_the_table_has_no_other_rows():
    assert len(ROWS) == len(BUGS) >= 25
    assert kill_table.TABLE.read_text(encoding="utf-8").startswith(kill_table.HEAD)
