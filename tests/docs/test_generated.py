"""Pages that are made from code are as the code is, and links lead somewhere."""

from __future__ import annotations

import re

import pytest
from anychip_sdk.conformance.runner import AREA_FILES
from anychip_sdk.contract.reference import reference
from pages import DOCS

PAGES = sorted(DOCS.rglob("*.md"))
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_the_contract_s_page_is_current():
    assert (DOCS / "vendors/contract.md").read_text(encoding="utf-8") == reference(), (
        "run python -m anychip_sdk.contract.reference --write docs/vendors/contract.md"
    )


def test_the_kill_table_lists_the_bugs_and_checks_there_are(monkeypatch):
    """That each is caught by the check it names is tested in tests/conformance, bug by bug."""
    monkeypatch.syspath_prepend(DOCS.parent / "tests/conformance")
    import kill_table
    from bugs import BUGS

    text = kill_table.TABLE.read_text(encoding="utf-8")
    checks = re.findall(r"`(\w+/[^`]+)` \|$", text, re.MULTILINE)
    assert text == kill_table.HEAD + "\n".join(map(kill_table.row, BUGS, checks)) + "\n"
    for check in checks:
        area, name = check.partition("[")[0].split("/")
        source = (AREA_FILES / f"test_{area}.py").read_text(encoding="utf-8")
        assert f"def test_{name}(" in source, check


def test_the_example_is_as_long_as_they_say():
    sources = (DOCS.parent / "plugin_sdk/examples/anychip-numba/src").rglob("*.py")
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources)
    assert f"a whole platform in {lines} lines" in (DOCS / "vendors/seven_steps.md").read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """As GitHub makes them of titles."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_its_links_lead_somewhere(page):
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_every_page_is_listed(page):
    index = (DOCS / "vendors/README.md").read_text(encoding="utf-8")
    if page.parent == DOCS / "vendors" and page.name != "README.md":
        assert f"]({page.name})" in index
