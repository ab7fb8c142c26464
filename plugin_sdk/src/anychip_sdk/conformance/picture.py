"""The support matrix as a picture: a row for every report, with its level, profiles and areas. Plain SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from anychip_sdk.conformance.levels import AREAS, level_name
from anychip_sdk.conformance.matrix import columns, dtypes, score, word

ROW, HEAD, FOOT, PAD = 62, 132, 46, 28
NAME, LEVEL, PROFILE, AREA, CHECKS = 214, 136, 76, 31, 112
"""Heights of a row and of what is above and below them; the margin; widths of the columns."""

_INK, _SOFT, _LINE, _GROUND = "#1b2430", "#66717f", "#e6eaef", "#ffffff"
_GOOD, _BAD, _NONE = ("#1a8a56", "#e3f4eb"), ("#c43d3d", "#fbe6e6"), ("#7d8794", "#f0f2f5")
"""Ink and ground of a mark."""
_LEVELS: Final = {
    "Gold": ("#5c4300", "#f4cf5a"), "Silver": ("#2c3440", "#cdd5df"), "Bronze": ("#ffffff", "#b0703c"),
    "partial run": ("#66717f", "#f0f2f5"), "not conformant": ("#ffffff", "#c43d3d"),
}  # fmt: skip
_FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"


def svg(reports: Sequence[Mapping[str, Any]]) -> str:
    profiles = columns(reports)
    areas_left = PAD + NAME + LEVEL + PROFILE * len(profiles) + 16
    checks_left = areas_left + AREA * len(AREAS) + 28
    width, height = checks_left + CHECKS + PAD, HEAD + ROW * len(reports) + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="{_FONT}" role="img" aria-label="anychip support matrix">',
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="14" fill="{_GROUND}" stroke="{_LINE}"/>',
        _text(PAD, 44, "anychip support matrix", size=20, weight=650),
        _text(PAD, HEAD - 14, "Device", ink=_SOFT),
        _text(PAD + NAME, HEAD - 14, "Level", ink=_SOFT),
    ]
    for i, profile in enumerate(profiles):
        left = PAD + NAME + LEVEL + PROFILE * i + PROFILE / 2
        parts.append(_text(left, HEAD - 14, profile, ink=_SOFT, anchor="middle"))
    for i, area in enumerate(AREAS):
        parts.append(_slanted(areas_left + AREA * i + AREA / 2, HEAD - 14, area))
    parts.append(_text(checks_left, HEAD - 14, "Checks", ink=_SOFT))
    for i, report in enumerate(reports):
        parts += _row(report, profiles, HEAD + ROW * i, areas_left, checks_left, width)
    parts.append(_text(PAD, height - 18, _footer(reports), size=11, ink=_SOFT))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _footer(reports: Sequence[Mapping[str, Any]]) -> str:
    versions = {name: sorted({r["versions"][name] for r in reports}) for name in ("suite", "contract")}
    known = ", ".join(f"{name} {' and '.join(found)}" for name, found in versions.items())
    return f"{known}.  A tick: every check that ran has passed.  A number: checks that did not.  A dash: none ran."


def _row(
    report: Mapping[str, Any], profiles: Sequence[str], top: float, areas_left: float, checks_left: float, width: float
) -> list[str]:
    middle, device = top + ROW / 2, report["device"]
    parts = [
        f'<line x1="{PAD}" y1="{top}" x2="{width - PAD}" y2="{top}" stroke="{_LINE}"/>',
        f"<g><title>{escape(device['description'])} ({escape(device['distribution'])})</title>",
        _text(PAD, middle - 3, _short(device["name"], 22), size=15, weight=600) + "</g>",
        _text(PAD, middle + 15, _short(dtypes(report), 32), size=11, ink=_SOFT),
        _pill(PAD + NAME, middle, 112, level_name(report), _LEVELS[level_name(report)]),
    ]
    for i, profile in enumerate(profiles):
        state = word(report, profile)
        colours = {"yes": _GOOD, "fails": _BAD}.get(state, _NONE)
        left = PAD + NAME + LEVEL + PROFILE * i + (PROFILE - 62) / 2
        parts.append(_pill(left, middle, 62, state, colours))
    for i, area in enumerate(AREAS):
        parts.append(_area(areas_left + AREA * i + AREA / 2, middle, area, report["areas"].get(area)))
    passed, ran = score(report)
    parts += [
        _text(checks_left, middle - 3, f"{passed} of {ran}", size=13),
        _text(checks_left, middle + 15, f"{report['tier']}, {report['when'][:10]}", size=11, ink=_SOFT),
    ]
    return parts


def _area(centre: float, middle: float, area: str, counts: Mapping[str, Any] | None) -> str:
    """A tick, the number of failures, or a dash where there was nothing to judge."""
    bad = 0 if counts is None else counts["failed"] + counts["not run"] + counts["waived"]
    tested = counts is not None and (counts["passed"] or bad)
    ink, ground = _NONE if not tested else _BAD if bad else _GOOD
    said = f"{counts['passed']} passed, {bad} not" if counts is not None else "not run"
    box = f'<rect x="{centre - 12}" y="{middle - 12}" width="24" height="24" rx="7" fill="{ground}"/>'
    if bad:
        mark = _text(centre, middle + 4, str(bad) if bad < 100 else "!", size=11, weight=700, ink=ink, anchor="middle")
    else:
        path = "m-5 0 3.5 4 6.5 -8" if tested else "m-4 0 h8"
        mark = (
            f'<path d="M{centre} {middle} {path}" fill="none" stroke="{ink}" stroke-width="2" stroke-linecap="round" '
            'stroke-linejoin="round"/>'
        )
    return f"<g><title>{area}: {said}</title>{box}{mark}</g>"


def _pill(left: float, middle: float, width: float, text: str, colours: tuple[str, str]) -> str:
    ink, ground = colours
    box = f'<rect x="{left}" y="{middle - 13}" width="{width}" height="26" rx="13" fill="{ground}"/>'
    return box + _text(left + width / 2, middle + 4.5, text, size=12, weight=600, anchor="middle", ink=ink)


def _slanted(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({x} {y}) rotate(-45)" font-size="12" fill="{_SOFT}">{escape(text)}</text>'


def _text(
    x: float, y: float, text: str, *, size: int = 13, weight: int = 400, anchor: str = "start", ink: str = _INK
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{ink}">'
        f"{escape(text)}</text>"
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
