"""report.md: what a run found, for people. First the verdict and what falls short, then the evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from anychip_sdk.conformance.levels import level_name

COUNTED: Final = ("passed", "failed", "waived", "skipped", "not run")


def markdown(data: Mapping[str, Any]) -> str:
    """data: report.json."""
    sections = (
        _head(data), _short_falls(data), _areas(data), _failures(data), _waivers(data), _profiles(data),
        _capabilities(data), _skipped(data), _speed(data), _ops(data), _versions(data),
    )  # fmt: skip
    return "\n\n".join("\n".join(lines) for section in sections if (lines := list(section))) + "\n"


def _head(data: Mapping[str, Any]) -> Iterator[str]:
    device, versions, worst = data["device"], data["versions"], data["worst"]
    areas = data["areas"].values()
    total = {name: sum(area[name] for area in areas) for name in COUNTED}
    ran = total["passed"] + total["failed"] + total["waived"]
    yield f"# Conformance of {device['name']}: {level_name(data)}"
    yield ""
    yield (
        f"{device['description']} ({device['distribution']}). A {data['tier']} run of suite {versions['suite']} for "
        f"contract {versions['contract']}, {data['when'][:16].replace('T', ' ')} UTC, seed {data['seed']}."
    )
    yield ""
    yield f"- {total['passed']} of {ran} checks passed, {total['skipped']} skipped, {total['not run']} not run"
    if data["next level"]:
        yield f"- Next level: {data['next level']}"
    if worst is not None:
        yield f"- Worst error: {_ratio(worst['ratio'])} of its budget, in `{worst['id']}`"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.2g}"


def _short_falls(data: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong beyond single checks, one line each; nothing where nothing is."""
    lines = [
        *(f"- **Broken claim**: {line}" for line in data["claims"]),
        *(f"- **Demanded**: {line}" for line in data["demanded"]),
        *(f"- **{area}**: {c['ended']}" for area, c in data["areas"].items() if c["ended"]),
    ]
    if lines:
        yield from ("## What falls short", "", *lines)


def _failures(data: Mapping[str, Any]) -> Iterator[str]:
    failed = [r for r in data["checks"] if r["outcome"] == "failed"]
    if failed:
        yield from ("## Failures", "", "To repeat one, add `--out FOLDER` to its command, the folder of this report.")
    for r in failed:
        yield from ("", f"- `{r['id']}`  ", f"  {r.get('message', '')}  ", f"  {_repeat(r)}")


def _repeat(result: Mapping[str, Any]) -> str:
    inputs = ", with its saved inputs" if result.get("inputs") else ""
    return f"`anychip conformance repro '{result['id']}'`{inputs}"


def _areas(data: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Areas", "")
    rows = []
    for area, c in data["areas"].items():
        worst = "" if c["worst"] is None else _ratio(c["worst"])
        rows.append([area, *(str(c[name] or "") for name in COUNTED), worst, f"{c['seconds']:g}"])
    yield from _table(["Area", *COUNTED, "worst error / budget", "s"], rows, numbers=True)


def _profiles(data: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Profiles", "")
    yield from _table(["Profile", "State"], data["profiles"].items())


def _skipped(data: Mapping[str, Any]) -> Iterator[str]:
    """Why checks were skipped: what the device does not declare, so what it was not asked."""
    reasons = Counter(r.get("message", "") for r in data["checks"] if r["outcome"] == "skipped")
    if reasons:
        yield from ("## Not tested", "")
        yield from _table(["Checks", "Why"], ((str(n), reason) for reason, n in reasons.most_common()))


def _capabilities(data: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## What the device declares", "")
    yield from _table(["Capability", "Value"], ((f"`{k}`", _value(v)) for k, v in data["capabilities"].items()))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _speed(data: Mapping[str, Any]) -> Iterator[str]:
    if data["speed"]:
        yield from ("## Speed", "")
        yield from _table(["Measured", ""], ((name, f"{v:.4g}") for name, v in data["speed"].items()), numbers=True)


def _waivers(data: Mapping[str, Any]) -> Iterator[str]:
    if data["waivers"]:
        yield from ("## Waivers", "")
        yield from (f"- `{w['id']}` until {w['expiry']}: {w['reason']} ({w['link']})" for w in data["waivers"])


def _ops(data: Mapping[str, Any]) -> Iterator[str]:
    own = sum(op["reason"] == "the platform's own" for op in data["ops"])
    reference = sum(op["reference"] for op in data["ops"])
    yield from ("## Where each op comes from", "")
    yield (
        f"Of {len(data['ops'])}, {own} are the platform's own and {reference} run on reference code. The rest are made "
        "of other ops, or kept from a kit on purpose."
    )
    yield ""
    yield from _table(
        ["Op", "Provider", "Why"], ((f"`{op['op']}`", f"`{op['provider']}`", op["reason"]) for op in data["ops"])
    )


def _versions(data: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Versions", "")
    details = ((f"{data['device']['name']}: {name}", text) for name, text in data["device"]["details"].items())
    yield from _table(["Of", "Version"], [*data["versions"].items(), *details])


def _table(head: Sequence[str], rows: Iterable[Iterable[str]], *, numbers: bool = False) -> Iterator[str]:
    """numbers: all columns but the first stand to the right."""
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + ("---:|" if numbers else "---|") * (len(head) - 1)
    yield from ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
