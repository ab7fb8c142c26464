"""Plants every seeded bug, and writes which check caught it: `python tests/conformance/kill_table.py` renews
docs/vendors/kill_table.md. Names on the command line plant these bugs only, and write nothing."""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "docs/vendors/kill_table.md"
HEAD = """# Which check catches which bug

The conformance suite is tested itself. Each row is a faulty variant of the numpy or torch kit, or of the core on top of
it; the last column is the first check that failed. This table is written by `python tests/conformance/kill_table.py`,
and CI plants each bug for the check that stands beside it.

| Bug | What is wrong | Caught by |
|---|---|---|
"""


def caught_by(name: str, only: str | None = None) -> str:
    """The first check of the bug's area that fails under `--quick`, or "" where none does. only: a check's id, where it
    alone is to run."""
    from anychip_sdk.conformance.runner import Request, failures, run
    from bugs import BUGS

    bug = BUGS[name]
    inherited = [p for p in (str(HERE), os.environ.get("PYTHONPATH")) if p]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(os.pathsep.join(inherited).split(os.pathsep)))
    grouped = bug.base == "group"
    chosen = bug.only if only is None else "test_" + only.partition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        request = Request(
            "numpy" if grouped else None,
            None if grouped else f"bugs:manifest_{name}",
            f"bugs:group_{name}" if grouped else None,
            "quick", 0, Path(folder), (bug.area,), limit=bug.limit, only=chosen, fail_fast=True,
        )  # fmt: skip
        found = failures(run(request))
    return str(found[0]["id"]) if found else ""


def title(name: str) -> str:
    return name.replace("_", " ")


def row(name: str, check: str) -> str:
    from bugs import BUGS

    return f"| {title(name)} | {BUGS[name].what} | `{check}` |"


def main() -> int:
    from bugs import BUGS

    names = sys.argv[1:] or list(BUGS)
    checks = {}
    with ThreadPoolExecutor(2) as pool:
        for name, check in zip(names, pool.map(caught_by, names), strict=True):
            checks[name] = check
            print(f"{name}: {check or 'NOT CAUGHT'}", flush=True)
    if not sys.argv[1:]:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(HEAD + "\n".join(row(n, c) for n, c in checks.items()) + "\n", encoding="utf-8")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.exit(main())
