"""Repeats one failed check of a report from its saved inputs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from anychip_sdk.conformance.runner import AreaRun, Request, run
from anychip_sdk.conformance.under_test import SuiteError


def repro(check: str, folder: Path) -> tuple[AreaRun, str]:
    """check: its id in the report.json of `folder`. -> what came of it, and pytest's own words. Raises SuiteError."""
    data = _report(folder)
    result = next((r for r in data["checks"] if r["id"] == check), None)
    if result is None:
        known = ", ".join(data["failures"][:3]) or "none"
        raise SuiteError(f"{folder / 'report.json'} has no check {check!r}; its failures are {known}")
    area, _, name = check.partition("/")
    asked = data["asked"]
    inputs = folder / "areas" / area / result["inputs"] if result.get("inputs") else None
    with tempfile.TemporaryDirectory() as scratch:
        request = Request(
            asked["device"], asked["plugin"], asked["group"], data["tier"], data["seed"], Path(scratch), (area,),
            inputs=inputs, only=f"test_{name}", provider=asked.get("provider"),
        )  # fmt: skip
        (done,) = run(request)
        words = (Path(scratch) / "areas" / area / "output.txt").read_text(encoding="utf-8", errors="replace")
    return done, words


def _report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"no JSON: {error}"
        raise SuiteError(f"cannot read {path}: {why}; give the folder of a run with --out") from error
    return data
