"""The support matrix of several reports, as a table in markdown. `picture.py` draws it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from anychip_sdk.conformance.levels import PROFILES, level_name
from anychip_sdk.conformance.under_test import SuiteError

WORDS: Final = {"passed": "yes", "failed": "fails", "not declared": "no", "not run": "not run"}
"""State of a profile -> the word in the matrix. Others do not apply."""


def read_reports(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """report.json files, or folders that hold one. Raises SuiteError."""
    reports = []
    for path in paths:
        file = path / "report.json" if path.is_dir() else path
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else f"no JSON: {error}"
            raise SuiteError(f"cannot read {file}: {why}; give report.json files of conformance runs") from error
        if not isinstance(data, dict) or not {"device", "level", "profiles", "areas"} <= set(data):
            raise SuiteError(f"{file} is no report of a conformance run")
        reports.append(data)
    return reports


def columns(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Profiles that some device's contract has."""
    return [p for p in PROFILES if any(r["profiles"].get(p) in WORDS for r in reports)]


def word(report: Mapping[str, Any], profile: str) -> str:
    return WORDS.get(report["profiles"].get(profile), "n/a")


def dtypes(report: Mapping[str, Any]) -> str:
    return ", ".join(report["capabilities"]["weight_dtypes"])


def score(report: Mapping[str, Any]) -> tuple[int, int]:
    """Checks passed, and checks that ran."""
    areas = report["areas"].values()
    return sum(a["passed"] for a in areas), sum(a["passed"] + a["failed"] + a["waived"] for a in areas)


def markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    profiles = columns(reports)
    lines = [
        "| Device | Level | " + " | ".join(profiles) + " | Weights in | Checks | Suite | Contract | Run |",
        "|---|---|" + "---|" * len(profiles) + "---|---:|---|---|---|",
    ]
    for r in reports:
        passed, ran = score(r)
        cells = [r["device"]["name"], level_name(r), *(word(r, p) for p in profiles), dtypes(r), f"{passed} of {ran}"]
        versions = [r["versions"]["suite"], r["versions"]["contract"], f"{r['tier']}, {r['when'][:10]}"]
        lines.append("| " + " | ".join([*cells, *versions]) + " |")
    return "\n".join(lines) + "\n"
