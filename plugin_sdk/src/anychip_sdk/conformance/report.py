"""What a run leaves behind: report.json, junit.xml, badge.json, and report.md, which `page.py` writes."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from anychip_sdk.conformance.levels import Outcome, judge_level, judge_profiles, level_name
from anychip_sdk.conformance.page import COUNTED, markdown
from anychip_sdk.conformance.runner import AreaRun, Request
from anychip_sdk.conformance.under_test import UnderTest
from anychip_sdk.conformance.version import SUITE_VERSION
from anychip_sdk.conformance.waivers import Waiver
from anychip_sdk.contract import CONTRACT_VERSION, SCALED_KV, Capabilities, Device, StepPlugin

COLOURS = {
    "Gold": "gold", "Silver": "silver", "Bronze": "cd7f32", "partial run": "lightgrey", "not conformant": "red"
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """`data` is report.json."""

    data: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Nothing failed that is not waived, and every area ran to its end."""
        return not self.data["failures"] and not any(a["ended"] for a in self.data["areas"].values())


def make_report(
    request: Request, under_test: UnderTest, runs: Sequence[AreaRun], waivers: Mapping[str, Waiver],
    profiles: Sequence[str] = (),
) -> Report:  # fmt: skip
    """profiles: those that the user demands; one not declared is a failure."""
    opened = under_test.open()
    try:
        claims = opened.capabilities
        table = _op_table(opened)
    finally:
        opened.close()
    results = [_waive(r, waivers) for run in runs for r in run.results]
    outcomes = [_outcome(r) for r in results]
    outcomes += [Outcome("bronze", None, failed=True, waived=False) for run in runs if run.ended and not run.results]
    level, lacks = judge_level(outcomes, [run.area for run in runs], request.tier)
    found = judge_profiles(outcomes, claims)
    demanded = [f"profile {p} was asked for, but is {found[p]}" for p in profiles if found[p] != "passed"]
    ratios = [r for r in results if "ratio" in r]
    worst = max(ratios, key=lambda r: r["ratio"], default=None)
    return Report({
        "device": {
            "name": under_test.name, "description": under_test.info.description,
            "details": dict(under_test.info.details), "distribution": under_test.distribution,
        },
        "versions": {**_versions(), "plugin contract": str(under_test.manifest.contract)},
        "asked": {
            "device": request.device, "plugin": request.plugin, "group": request.group, "provider": request.provider,
        },
        "when": datetime.now(UTC).isoformat(timespec="seconds"), "tier": request.tier, "seed": request.seed,
        "level": level, "next level": lacks, "profiles": found, "demanded": demanded,
        "capabilities": asdict(claims),
        "worst": None if worst is None else {key: worst[key] for key in ("id", "ratio", "error", "budget")},
        "speed": {name: value for r in results for name, value in r.get("speed", {}).items()},
        "areas": {run.area: _area(run, results) for run in runs},
        "claims": broken_claims(results, claims), "failures": [r["id"] for r in results if r["outcome"] == "failed"],
        "waivers": [{**asdict(w), "expiry": str(w.expiry)} for w in waivers.values()],
        "ops": table, "checks": results,
    })  # fmt: skip


def _op_table(device: Device | StepPlugin) -> list[dict[str, Any]]:
    """Where each op comes from: the core's table, as plain data."""
    from anychip.platforms.op_table import op_table

    return [asdict(entry) for entry in op_table(device)]


def _versions() -> dict[str, str]:
    return {
        "anychip": metadata.version("anychip"), "suite": str(SUITE_VERSION), "contract": str(CONTRACT_VERSION),
        "python": platform.python_version(), "numpy": metadata.version("numpy"), "system": platform.platform(),
    }  # fmt: skip


def _waive(result: dict[str, Any], waivers: Mapping[str, Waiver]) -> dict[str, Any]:
    """Strict: a waived check that passes is a failure too, since its waiver is out of date."""
    if result["id"] not in waivers:
        return result
    if result["outcome"] == "passed":
        return {**result, "outcome": "failed", "message": "it is waived, but passes: remove the waiver"}
    return {**result, "outcome": "waived"} if result["outcome"] == "failed" else result


def _outcome(result: dict[str, Any]) -> Outcome:
    bad = result["outcome"] in ("failed", "waived", "not run")
    return Outcome(result.get("level", "bronze"), result.get("profile"), bad, result["outcome"] == "waived")


def _area(run: AreaRun, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mine = [r for r in results if r["id"].startswith(f"{run.area}/")]
    counts = {name: sum(r["outcome"] == name for r in mine) for name in COUNTED}
    ratio = max((r["ratio"] for r in mine if "ratio" in r), default=None)
    return {**counts, "worst": ratio, "seconds": run.seconds, "ended": run.ended, "trace": run.trace}


_CLAIM_OF_PROFILE = {"swa": "sliding_window", "softcap": "softcap", "sinks": "sinks", "moe": "moe", "quant": "quantize"}


def broken_claims(results: Sequence[dict[str, Any]], claims: Capabilities) -> list[str]:
    """One line for every capability that is declared and not kept."""
    found: dict[str, list[dict[str, Any]]] = {}
    for r in results:
        claim = r.get("claim") or _CLAIM_OF_PROFILE.get(r.get("profile") or "")
        if claim is not None and getattr(claims, claim):
            found.setdefault(f"{claim} is declared", []).append(r)
    floats = [d for d in (*claims.weight_dtypes, *claims.kv_dtypes) if d not in SCALED_KV]
    typed: dict[str, tuple[str, ...]] = {f"{d} is declared": (f"[{d}", f"-{d}") for d in floats}
    typed |= {f"KV in {d} is declared": (f"{d} KV",) for d in claims.kv_dtypes if d in SCALED_KV}
    for claim, marks in typed.items():
        found[claim] = [r for r in results if any(mark in r["id"] for mark in marks)]
    lines = []
    for claim, mine in found.items():
        bad = [r["id"] for r in mine if r["outcome"] == "failed"]
        ran = sum(r["outcome"] in ("passed", "failed", "waived") for r in mine)
        if bad and (
            len(bad) == ran or claim not in typed
        ):  # some failures in a dtype are faults, all are a wrong claim
            lines.append(f"{claim}, but {len(bad)} of {ran} checks of it fail, first {bad[0]}")
    return lines


def write_report(report: Report, folder: Path) -> None:
    data = report.data
    (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(data), encoding="utf-8")
    (folder / "badge.json").write_text(json.dumps(badge(data)) + "\n", encoding="utf-8")
    junit(data).write(folder / "junit.xml", encoding="utf-8", xml_declaration=True)


def badge(data: Mapping[str, Any]) -> dict[str, Any]:
    """As shields.io reads it (its "endpoint" badge)."""
    level = level_name(data)
    message = f"{level} · contract {data['versions']['contract']}"
    return {"schemaVersion": 1, "label": "anychip", "message": message, "color": COLOURS[level]}


def junit(data: Mapping[str, Any]) -> Xml.ElementTree[Any]:
    root = Xml.Element("testsuites", name=f"anychip conformance of {data['device']['name']}")
    for area, counts in data["areas"].items():
        mine = [r for r in data["checks"] if r["id"].startswith(f"{area}/")]
        failed = counts["failed"] + bool(counts["ended"])
        suite = Xml.SubElement(
            root, "testsuite", name=area, tests=str(len(mine) + bool(counts["ended"])), failures=str(failed),
            skipped=str(counts["skipped"] + counts["waived"] + counts["not run"]), time=str(counts["seconds"]),
        )  # fmt: skip
        if counts["ended"]:
            case = Xml.SubElement(suite, "testcase", classname=area, name="the area's process")
            Xml.SubElement(case, "failure", message=counts["ended"]).text = _printable(counts["trace"])
        for r in mine:
            name = r["id"].partition("/")[2]
            case = Xml.SubElement(suite, "testcase", classname=area, name=name, time=str(r["seconds"]))
            if r["outcome"] == "failed":
                message = _printable(r.get("message", ""))
                Xml.SubElement(case, "failure", message=message).text = _printable(r.get("trace", ""))
            elif r["outcome"] != "passed":
                Xml.SubElement(case, "skipped", message=_printable(f"{r['outcome']}: {r.get('message', '')}"))
    return Xml.ElementTree(root)


def _printable(text: str) -> str:
    """XML has no control characters."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
