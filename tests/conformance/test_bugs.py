"""The suite catches every seeded bug, and by the check that the kill table names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import kill_table
import pytest
from bugs import BUGS

ROWS = kill_table.TABLE.read_text(encoding="utf-8").splitlines()[kill_table.HEAD.count("\n") :]


@pytest.fixture(scope="session")
def caught(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Plants the bugs that this run has selected, two at a time, each in its own process."""
    selected = [item.callspec.params["name"] for item in request.session.items if item.name.startswith("test_it_is_")]
    with ThreadPoolExecutor(2) as pool:
        found = {name: pool.submit(kill_table.caught_by, name) for name in selected}
        yield lambda name: found[name].result()
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", BUGS)
def test_it_is_caught(name, caught):
    check = caught(name)
    assert check, f"no check of {BUGS[name].area} caught it: {BUGS[name].what}"
    assert kill_table.row(name, check) in ROWS, (
        f"{check} caught it, and the table says otherwise; run python tests/conformance/kill_table.py"
    )


def test_the_table_has_no_other_rows():
    assert len(ROWS) == len(BUGS) >= 25
    assert kill_table.TABLE.read_text(encoding="utf-8").startswith(kill_table.HEAD)
