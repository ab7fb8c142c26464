"""Runs the areas, each in a process of its own with a time limit: a crash or a hang is that area's failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from anychip_sdk.conformance.levels import AREAS, Tier
from anychip_sdk.conformance.under_test import SuiteError

AREA_FILES: Final = Path(__file__).parent / "areas"
TIME_LIMITS: Final[dict[Tier, float]] = {"quick": 300, "full": 1200, "certify": 7200}
"""Seconds an area may take."""
TRACE_CHARS: Final = 6000
ALONE: Final = frozenset({"allocator", "speed"})
"""Areas that measure the device."""
RECORDS: Final = "records.jsonl"
"""What the suite's pytest plugin writes, in the folder of an area."""


@dataclass(frozen=True)
class Request:
    """What to run. `inputs`: repeat with these saved inputs; `only`: one check's pytest name; `fail_fast`: an area ends
    with its first failure; `jobs`: areas that run at once, but for those of `ALONE`; `provider`: whose ops the
    device takes."""

    device: str | None
    plugin: str | None
    group: str | None
    tier: Tier
    seed: int
    out: Path
    areas: tuple[str, ...] = AREAS
    limit: float | None = None
    inputs: Path | None = None
    only: str | None = None
    fail_fast: bool = False
    jobs: int = 1
    provider: str | None = None

    def __post_init__(self) -> None:
        for area in self.areas:
            if area not in AREAS:
                raise SuiteError(f"there is no area {area!r}; known: {', '.join(AREAS)}")


@dataclass
class AreaRun:
    """What came of one area. `results`: one record per check. `ended`: "" or why the process ended early."""

    area: str
    seconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)
    ended: str = ""
    trace: str = ""


def require_pytest() -> None:
    """Raises SuiteError, in one line, where the extra is not installed."""
    from importlib.util import find_spec

    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing:
        raise SuiteError(f'the suite needs {" and ".join(missing)}; install it with pip install "anychip[conformance]"')


def run(request: Request, say: Callable[[AreaRun], None] = lambda _: None) -> list[AreaRun]:
    """Every area asked for, in order; `say` hears of each, in this order too."""
    require_pytest()
    request.out.mkdir(parents=True, exist_ok=True)
    runs = []
    live: set[subprocess.Popen[bytes]] = set()
    with ThreadPoolExecutor(request.jobs) as pool:
        together = [a for a in request.areas if request.jobs > 1 and a not in ALONE]
        shared = {a: pool.submit(_run_area, a, request, live) for a in together}
        try:
            for done in shared.values():
                done.result()  # those that measure begin when all others have ended
            for area in request.areas:
                runs.append(shared[area].result() if area in shared else _run_area(area, request, live))
                say(runs[-1])
        except BaseException:  # an interrupt, which reaches no area: each has a session of its own
            pool.shutdown(wait=False, cancel_futures=True)
            for process in live.copy():
                _end(process)
            raise
    return runs


def command(area: str, request: Request, records: Path) -> list[str]:
    """The pytest of one area. It reads no configuration file and no plugin but the suite's own."""
    target = str(AREA_FILES / f"test_{area}.py") + (f"::{request.only}" if request.only else "")
    options = {
        "device": request.device, "plugin": request.plugin, "group": request.group, "tier": request.tier,
        "seed": request.seed, "out": records, "inputs": request.inputs, "provider": request.provider,
    }  # fmt: skip
    return [
        sys.executable, "-X", "faulthandler", "-m", "pytest", target, "-q", "-c", os.devnull,
        "--rootdir", str(AREA_FILES), "-p", "anychip_sdk.conformance.plugin", "-p", "no:cacheprovider",
        *(("--maxfail=1",) if request.fail_fast else ()),
        *(f"--anychip-{name}={value}" for name, value in options.items() if value is not None),
    ]  # fmt: skip


def known_checks(request: Request, areas: Iterable[str]) -> set[str]:
    """Ids of all checks of these areas on the device, whatever the tier and the areas of the request. Runs none."""
    known: set[str] = set()
    for area in set(areas) & set(AREAS):
        with tempfile.TemporaryDirectory() as folder:
            asked = replace(request, tier="certify", only=None)
            subprocess.run(  # noqa: S603 - our own module, no shell
                [*command(area, asked, Path(folder)), "--collect-only"], capture_output=True, check=False,
                env=_environment(area), timeout=TIME_LIMITS["quick"],
            )  # fmt: skip
            known.update(next((e["collected"] for e in _entries(Path(folder)) if "collected" in e), []))
    return known


def _run_area(area: str, request: Request, live: set[subprocess.Popen[bytes]]) -> AreaRun:
    """live: processes under way; the area's is among them while it runs."""
    folder = request.out / "areas" / area
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORDS).unlink(missing_ok=True)
    log = folder / "output.txt"
    done = AreaRun(area)
    start = perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module, no shell
            command(area, request, folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(area),
            start_new_session=True,
        )
        live.add(process)
        try:
            done.ended = _wait(process, request.limit or TIME_LIMITS[request.tier])
        finally:
            live.discard(process)
    done.seconds = round(perf_counter() - start, 1)
    _read(_entries(folder), done)
    text = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode not in (0, 1, 5) and not done.ended:  # pytest's: passed, failed, nothing to run
        done.ended = _describe_exit(process.returncode)
    if done.ended:
        done.trace = text[-TRACE_CHARS:]
    return done


def _environment(area: str) -> dict[str, str]:
    """No threads spin while they wait, unless speed is measured: with anything else on the machine they would take the
    cores from those that work. OpenMP's can be told; numpy's OpenBLAS is left with one, enough for what it is given."""
    patience = {} if area == "speed" else {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    return {**patience, **os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _wait(process: subprocess.Popen[bytes], limit: float) -> str:
    """-> "" if it ended by itself. A hang is told to abort, so that faulthandler writes where every thread stands;
    its children end with it."""
    try:
        process.wait(limit)
        return ""
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        return f"it did not end within {limit:g} s"
    finally:
        _end(process)
        process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """With its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"the process died of {signal.Signals(-code).name}"
    return f"pytest ended with status {code}"


def _entries(folder: Path) -> list[dict[str, Any]]:
    records = folder / RECORDS
    return [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()] if records.exists() else []


def _read(entries: list[dict[str, Any]], done: AreaRun) -> None:
    """Fills in the results. A check that began and never ended is where the process died; those after it did not
    run."""
    finished = {e["id"]: e for e in entries if "id" in e}
    begun = {e["start"]: e for e in entries if "start" in e}
    for check in next((e["collected"] for e in entries if "collected" in e), []):
        if check in finished:
            done.results.append(finished[check])
        else:
            ended = done.ended or "the process ended"
            outcome, what = ("failed", f"{ended} in this check") if check in begun else ("not run", ended)
            fields = {k: v for k, v in begun.get(check, {}).items() if k != "start"}
            done.results.append({"id": check, "outcome": outcome, "message": what, "seconds": 0.0, **fields})


def failures(runs: Sequence[AreaRun]) -> list[dict[str, Any]]:
    return [r for run in runs for r in run.results if r["outcome"] == "failed"]
