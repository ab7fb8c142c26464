"""The support matrix of several reports: a table in markdown, and a picture in SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from anychip_sdk.conformance.levels import PROFILES, level_name
from anychip_sdk.conformance.under_test import SuiteError

_LEVEL_COLOURS: Final = {
    "Gold": "#d9a404", "Silver": "#7f8b9c", "Bronze": "#b06b35", "partial run": "#c3cad3", "not conformant": "#c43d3d",
}  # fmt: skip
_STATES: Final = {
    "passed": ("#1f9d63", "#e7f6ee", "yes"), "failed": ("#c43d3d", "#fbe9e9", "fails"),
    "not declared": ("#8a94a3", "#f1f3f6", "no"), "not run": ("#8a94a3", "#f1f3f6", "not run"),
}  # fmt: skip
"""State -> colour of the mark, of its ground, and the word."""
_UNKNOWN: Final = ("#c3cad3", "#ffffff", "n/a")


def read_reports(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """report.json files, or folders that hold one. Raises SuiteError."""
    reports = []
    for path in paths:
        file = path / "report.json" if path.is_dir() else path
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SuiteError(f"cannot read {file}: {error}; give report.json files of conformance runs") from error
        if not isinstance(data, dict) or not {"device", "level", "profiles", "areas"} <= set(data):
            raise SuiteError(f"{file} is no report of a conformance run")
        reports.append(data)
    return reports


def _columns(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Profiles that some device's contract has."""
    return [p for p in PROFILES if any(r["profiles"].get(p) in _STATES for r in reports)]


def _dtypes(report: Mapping[str, Any]) -> str:
    return ", ".join(report["capabilities"]["weight_dtypes"])


def _score(report: Mapping[str, Any]) -> tuple[int, int]:
    """Checks passed, and checks that ran."""
    areas = report["areas"].values()
    return sum(a["passed"] for a in areas), sum(a["passed"] + a["failed"] + a["waived"] for a in areas)


def markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    profiles = _columns(reports)
    lines = [
        "| Device | Level | " + " | ".join(profiles) + " | Weights in | Checks | Suite | Run |",
        "|---|---|" + "---|" * len(profiles) + "---|---:|---|---|",
    ]
    for r in reports:
        states = [_STATES.get(r["profiles"].get(p), _UNKNOWN)[2] for p in profiles]
        passed, ran = _score(r)
        cells = [r["device"]["name"], level_name(r), *states, _dtypes(r), f"{passed} of {ran}", r["versions"]["suite"]]
        lines.append("| " + " | ".join([*cells, f"{r['tier']}, {r['when'][:10]}"]) + " |")
    return "\n".join(lines) + "\n"


ROW, HEAD, NAME, CELL, LEVEL, BAR, PAD = 64, 84, 230, 92, 150, 150, 24


def svg(reports: Sequence[Mapping[str, Any]]) -> str:
    """A row for every device: level, profiles, and the share of checks passed."""
    profiles = _columns(reports)
    width = PAD * 2 + NAME + LEVEL + CELL * len(profiles) + BAR
    height = HEAD + ROW * len(reports) + PAD
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img" '
        'aria-label="Support matrix">',
        f'<rect width="{width}" height="{height}" rx="14" fill="#ffffff" stroke="#dfe4ea"/>',
        _text(PAD, 36, "anychip support matrix", size=18, weight=650, fill="#1b2430"),
        _text(PAD, 64, "Device", fill="#66717f"),
        _text(PAD + NAME, 64, "Level", fill="#66717f"),
    ]
    for i, profile in enumerate(profiles):
        parts.append(_text(PAD + NAME + LEVEL + CELL * i + CELL / 2, 64, profile, anchor="middle", fill="#66717f"))
    parts.append(_text(width - PAD - BAR, 64, "Checks passed", fill="#66717f"))
    for i, report in enumerate(reports):
        parts += _row(report, profiles, HEAD + ROW * i, width)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(report: Mapping[str, Any], profiles: Sequence[str], top: float, width: float) -> list[str]:
    middle = top + ROW / 2
    parts = [
        f'<line x1="{PAD}" y1="{top}" x2="{width - PAD}" y2="{top}" stroke="#eceff3"/>',
        _text(PAD, middle - 4, report["device"]["name"], size=15, weight=600, fill="#1b2430"),
        _text(PAD, middle + 15, _dtypes(report), size=11, fill="#8a94a3"),
        _pill(PAD + NAME, middle, 116, level_name(report), _LEVEL_COLOURS[level_name(report)], "#ffffff"),
    ]
    for i, profile in enumerate(profiles):
        mark, ground, word = _STATES.get(report["profiles"].get(profile), _UNKNOWN)
        left = PAD + NAME + LEVEL + CELL * i + (CELL - 64) / 2
        parts.append(_pill(left, middle, 64, word, ground, mark))
    passed, ran = _score(report)
    left, share = width - PAD - BAR, passed / ran if ran else 0.0
    colour = "#1f9d63" if share == 1 else "#d98a04" if share > 0.9 else "#c43d3d"
    parts += [
        f'<rect x="{left}" y="{middle - 4}" width="{BAR}" height="8" rx="4" fill="#eceff3"/>',
        f'<rect x="{left}" y="{middle - 4}" width="{BAR * share:.1f}" height="8" rx="4" fill="{colour}"/>',
        _text(left, middle + 20, f"{passed} of {ran}", size=11, fill="#66717f"),
    ]
    return parts


def _pill(left: float, middle: float, width: float, word: str, ground: str, ink: str) -> str:
    box = f'<rect x="{left}" y="{middle - 13}" width="{width}" height="26" rx="13" fill="{ground}"/>'
    return box + _text(left + width / 2, middle + 4.5, word, size=12, weight=600, anchor="middle", fill=ink)


def _text(x: float, y: float, text: str, *, size: int = 13, weight: int = 400, anchor: str = "start", fill: str) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{fill}">'
        f"{escape(text)}</text>"
    )
