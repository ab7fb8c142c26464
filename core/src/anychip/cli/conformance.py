"""anychip conformance: how much of the contract a device keeps, with evidence."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anychip.cli.options import positive
from anychip.cli.parser import number, whole
from anychip.errors import PlatformError, RequestError

if TYPE_CHECKING:
    from anychip_sdk.conformance.levels import Tier
    from anychip_sdk.conformance.report import Report
    from anychip_sdk.conformance.runner import AreaRun

OUT = Path("conformance-report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_run_arguments(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    repeat = actions.add_parser("repro", help="repeat one failure of a report from its saved inputs")
    repeat.add_argument("id", help="the check's id in the report")
    # Without a default of its own, which would replace what was given before the action.
    folder = f"the report's folder (default {OUT})"
    repeat.add_argument("--out", type=Path, default=argparse.SUPPRESS, metavar="DIR", help=folder)
    table = actions.add_parser("matrix", help="draw the support matrix of several reports")
    table.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="report.json, or its folder")
    table.add_argument("--svg", type=Path, metavar="FILE", help="write the picture here as well")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="NAME or NAME:INDEX of an installed device")
    parser.add_argument("--plugin", metavar="MODULE:FUNCTION", help="a plugin that is not installed, by its manifest")
    parser.add_argument("--provider", help="take ops from this library; see anychip devices -v")
    parser.add_argument("--group", metavar="MODULE:FUNCTION", help="opens one rank of several, for the communicator")
    tier = parser.add_mutually_exclusive_group()
    tier.add_argument("--quick", action="store_true", help="fewer shapes: minutes, not tens of them")
    tier.add_argument("--certify", action="store_true", help="everything, a soak too; the only way to Gold")
    parser.add_argument("--profile", default="", help="profiles that must be reached, as in swa,softcap")
    parser.add_argument("--areas", default="", help="run these only, as in ops,attention")
    parser.add_argument("--waivers", type=Path, metavar="FILE", help="known failures, TOML or JSON")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"where the report goes (default {OUT})")
    parser.add_argument("--seed", type=whole, default=0, help="of all inputs (default 0)")
    parser.add_argument("--time-limit", type=number, metavar="S", help="seconds an area may take (default: by the run)")
    parser.add_argument("--jobs", type=whole, default=1, metavar="N", help="areas to run at once (default 1)")
    parser.add_argument("--fail-fast", action="store_true", help="end an area with its first failure")


def run(options: argparse.Namespace) -> int:
    from anychip_sdk.conformance.under_test import SuiteError

    if options.action:
        _refuse_given(options)
    try:
        if options.action == "repro":
            return _repro(options)
        return _matrix(options) if options.action == "matrix" else _run(options)
    except SuiteError as error:
        raise PlatformError(str(error)) from error


def _run(options: argparse.Namespace) -> int:
    from anychip_sdk.conformance.levels import AREAS, PROFILES
    from anychip_sdk.conformance.report import make_report, write_report
    from anychip_sdk.conformance.runner import Request, known_checks, require_pytest
    from anychip_sdk.conformance.runner import run as run_areas
    from anychip_sdk.conformance.under_test import find
    from anychip_sdk.conformance.waivers import check_known, read_waivers

    _check(options)
    profiles = [p for p in options.profile.split(",") if p]
    for profile in profiles:
        if profile not in PROFILES:
            raise PlatformError(f"there is no profile {profile!r}; known: {', '.join(PROFILES)}")
    areas = tuple(a for a in options.areas.split(",") if a) or AREAS
    waivers = read_waivers(options.waivers) if options.waivers else {}
    tested = find(options.device, options.plugin, options.provider)
    tier: Tier = "quick" if options.quick else "certify" if options.certify else "full"
    request = Request(
        options.device, options.plugin, options.group, tier, options.seed, options.out, areas, options.time_limit,
        fail_fast=options.fail_fast, jobs=options.jobs, provider=options.provider,
    )  # fmt: skip
    require_pytest()
    _make_folder(options.out)
    check_known(waivers, known_checks(request, (check.partition("/")[0] for check in waivers)))
    print(f"{tested.name}: {tested.info.description} ({tested.distribution}), {tier} run", flush=True)
    runs = run_areas(request, say=_say)
    report = make_report(request, tested, runs, waivers, profiles)
    write_report(report, options.out)
    _conclude(report, options.out)
    return 0 if report.passed and not report.data["demanded"] else 1


def _check(options: argparse.Namespace) -> None:
    """Raises RequestError for numbers out of range."""
    positive("jobs", options.jobs)
    if options.seed < 0:
        raise RequestError(f"--seed is {options.seed}; expected a whole number >= 0")
    if options.time_limit is not None and not options.time_limit > 0:
        raise RequestError(f"--time-limit is {options.time_limit:g}; expected a number of seconds above 0")


def _refuse_given(options: argparse.Namespace) -> None:
    """Raises RequestError for options of a run where an action is given: it would ignore them."""
    parser = argparse.ArgumentParser()
    _add_run_arguments(parser)
    for name, default in vars(parser.parse_args([])).items():
        read = name == "out" and options.action == "repro"
        if not read and getattr(options, name) != default:
            option = "--" + name.replace("_", "-")
            raise RequestError(f"{option} does not go with {options.action}, which reads a report; leave it out")


def _make_folder(out: Path) -> None:
    """Before anything runs: minutes later is too late. Raises RequestError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out is {out}: {error.strerror}; give a folder that can be written") from error


def _say(done: AreaRun) -> None:
    """One line as an area ends, and one for each failure."""
    counts = {name: sum(r["outcome"] == name for r in done.results) for name in ("passed", "failed", "skipped")}
    words = ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "nothing to run"
    print(f"  {done.area:12} {words}  ({done.seconds:g} s)" + (f"  {done.ended}" if done.ended else ""), flush=True)
    for result in done.results:
        if result["outcome"] == "failed":
            print(f"      {result['id']}: {result.get('message', '')}")


def _conclude(report: Report, out: Path) -> None:
    from anychip_sdk.conformance.levels import level_name

    data = report.data
    for line in (*data["claims"], *data["demanded"]):
        print(line)
    for waiver in data["waivers"]:
        print(f"waived until {waiver['expiry']}: {waiver['id']}: {waiver['reason']} ({waiver['link']})")
    print(f"level: {level_name(data)}" + (f" ({data['next level']})" if data["next level"] else ""))
    reached = [p for p, state in data["profiles"].items() if state == "passed"]
    print(f"profiles: {', '.join(reached) or 'none'}")
    print(f"report: {out / 'report.md'}")


def _repro(options: argparse.Namespace) -> int:
    from anychip_sdk.conformance.repro import repro

    done, words = repro(options.id, options.out)
    failures = [r for r in done.results if r["outcome"] == "failed"]
    failed = bool(done.ended) or bool(failures)
    print(f"{options.id}: {'fails again' if failed else 'passes now'}")
    for result in failures:
        print(f"    {result['message']}")
    if failed:
        print(f"\n{words}", end="")
    return 1 if failed else 0


def _matrix(options: argparse.Namespace) -> int:
    from anychip_sdk.conformance.matrix import markdown, read_reports
    from anychip_sdk.conformance.picture import svg

    reports = read_reports(options.reports)
    print(markdown(reports), end="")
    if options.svg:
        options.svg.write_text(svg(reports), encoding="utf-8")
    return 0
