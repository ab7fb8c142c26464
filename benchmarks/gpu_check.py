"""Everything that is to be proved on a card, in one command:

    python benchmarks/gpu_check.py [--device cuda] [--out gpu-check] [--parts attention models parity ...]

Speed: attention beside a copy, tokens a second beside Transformers and the roofline, and how long the card waits for
the host. Then, side by side since they measure nothing: greedy tokens beside Transformers', a memory check where
compute-sanitizer is installed, and the kernels that the conformance suite will ask for, compiled in several processes.
Last the suite, some of whose checks look at the card's memory. Before all that a process that touches the card, so that
no figure and no limit bears what only the first one waits for.

Nothing is downloaded or installed: the checkout is used as it is. Every part is a process of its own with a time limit,
and all of them end within eight minutes; a part that fails or runs out of time is reported with what it found until
then, and the exit status is 1. OUT/gpu_check.json and OUT/gpu_check.md are written after every part.

--small tries the command itself on any device, the cpu included, in sizes whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from math import isnan
from pathlib import Path
from typing import Any

import checkout

TOTAL = 465
"""Seconds for everything: under eight minutes."""
MODEL_BYTES = 20 * 2**30
"""The largest checkpoint that is written, and some more."""
LEAST = 12
"""Seconds under which a part is not begun."""
LIMITS = {
    "start": 90, "attention": 75, "Qwen3-0.6B": 120, "Llama-3.2-1B": 90, "Qwen3-8B": 150, "tiny": 120, "parity": 150,
    "memcheck": 150, "kernels": 150, "conformance": 400,
}  # fmt: skip
"""Seconds a part may take at most."""
NEEDS = {
    "attention": 30, "Qwen3-0.6B": 70, "Llama-3.2-1B": 45, "Qwen3-8B": 90, "tiny": 60, "parity": 75, "memcheck": 75,
    "kernels": 75, "conformance": 75,
}  # fmt: skip
"""Seconds that the parts before one leave to it."""
MODELS = ("Qwen3-0.6B", "Llama-3.2-1B", "Qwen3-8B")
TOGETHER = ("parity", "memcheck", "kernels")
"""Parts that run side by side, when those that measure time are done."""
PARTS = ("attention", "models", *TOGETHER, "conformance")
MEMCHECK = ("--tool", "memcheck", "--error-exitcode", "9", "--report-api-errors", "no")
"""What a call of the driver answers is for its caller to judge: libraries try calls that may fail."""
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
"""Every tensor an allocation of its own, so that an access beyond it is seen."""
DTYPES = ("bfloat16", "float16 and not bfloat16", "float32")
"""Which checks of an area, as pytest's -k takes it."""
HALVES = ("(windows or heads or dims or softcap)", "not (windows or heads or dims or softcap)")
"""Of the area attention, by what its checks are called."""
QUIET = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
"""Of several suites at once: no plugin of pytest but their own, and a thread each for the host's arithmetic."""
KERNELS = {
    "attention": (*(f"({dtype}) and {half}" for dtype in DTYPES for half in HALVES), "not float"),
    "executor": (*DTYPES, "not float"),
}
"""Areas that ask for more than a hundred programs each, and the parts that they are cut into. The suite runs an area in
one process, where compiling them takes minutes; Triton keeps what it compiled on disk."""


def say(name: str, value: float) -> None:
    """A line of JSON for the process that waits for this one."""
    print(json.dumps({name: None if isnan(value) else value}), flush=True)


def one(part: str, device: str, small: bool) -> None:
    """A part, in this process."""
    if part == "start":
        return start_up()
    import gpu_attention
    import gpu_models
    import gpu_parity
    from anychip.platforms.selection import choose, open_device

    opened: Any = open_device(choose(device), None)
    place = opened.state(1).last_token.device
    with tempfile.TemporaryDirectory(dir=_in_memory()) as folder:
        if part == "attention":
            gpu_attention.run(opened, small, say)
        elif part == "memcheck":
            gpu_attention.touch(opened, say)
        elif part == "parity":
            gpu_parity.run(device, place, Path(folder), say)
        else:
            gpu_models.run(device, place, part, Path(folder), small, say)


def start_up() -> None:
    """Loads what is large, and the driver, whose first call may take longer than a probe may."""
    import torch
    import transformers  # noqa: F401

    if torch.cuda.is_available():
        torch.zeros(1, device="cuda")


def _in_memory() -> str | None:
    """A folder in memory, where there is one with room for a large model: a disk may take minutes. None: any."""
    place = Path("/dev/shm")
    return str(place) if place.is_dir() and shutil.disk_usage(place).free > MODEL_BYTES else None


def _family(root: int) -> list[int]:
    """A process and all that come from it, those in groups of their own too, as the suite's areas are. Linux only;
    elsewhere the process alone."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    family = [root]
    for member in family:
        family += children.get(member, [])
    return family


def run(command: list[str], limit: float, log: Path, extra: dict[str, str]) -> str | None:
    """With all that it starts, which is ended with it. -> why it failed, None where it did not. log: gets both
    outputs."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **extra}, start_new_session=True
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"it did not end within {limit:.0f} s"
        finally:
            for member in _family(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whose parents have ended
            process.wait()
    return None if process.returncode == 0 else log.read_text(encoding="utf-8", errors="replace")[-2000:]


def measured(part: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """A part, in a process of its own: what it found, and why it failed."""
    command = [sys.executable, __file__, "--one", part, "--device", options.device, "--out", str(options.out)]
    extra = {}
    if part == "memcheck":
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            return {"failed": None, "found": {"compute-sanitizer": "not installed, so nothing was checked"}}
        command, extra = [tool, *MEMCHECK, *command], UNCACHED
    log = options.out / f"{part}.log"
    failed = run([*command, "--small"] if options.small else command, limit, log, extra)
    found: dict[str, Any] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{"):
            with suppress(ValueError):
                found |= json.loads(line)
    if part == "memcheck" and failed is None:
        found["memory errors"] = 0
    wrong = [name for name, count in found.items() if part == "parity" and name.endswith("different") and count]
    return {"failed": failed or (f"tokens differ: {wrong}" if wrong else None), "found": found}


def kernels(options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Seconds that each part of `KERNELS` took. What its checks say does not count here: the suite runs them again."""
    from anychip_sdk.conformance.runner import Request, command

    parts = [(area, chosen) for area, cuts in KERNELS.items() for chosen in cuts]
    if options.small:
        parts = [("kv_write", "float32")]

    def compiled(number: int, area: str, chosen: str) -> str:
        folder = options.out / "kernels" / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        request = Request(options.device, None, None, "quick", 0, folder)
        start = time.perf_counter()
        run([*command(area, request, folder), "-k", chosen], limit, folder / "output.txt", QUIET)
        return f"{time.perf_counter() - start:.0f} s"

    with ThreadPoolExecutor(len(parts)) as pool:
        running = {
            f"{area}, {chosen}": pool.submit(compiled, n, area, chosen) for n, (area, chosen) in enumerate(parts)
        }
        return {"failed": None, "found": {name: done.result() for name, done in running.items()}}


def conformance(options: argparse.Namespace, limit: float) -> dict[str, Any]:
    out = options.out / "conformance"
    jobs = max(1, min(9, (os.cpu_count() or 1) - 1))
    command = [
        sys.executable, "-m", "anychip", "conformance", "--device", options.device, "--quick", "--out", str(out),
        "--jobs", str(jobs), "--time-limit", str(int(0.6 * limit)),
    ]  # fmt: skip
    if options.small:
        command += ["--areas", "discovery,kv_write"]
    failed = run(command, limit, options.out / "conformance.log", {})
    report = out / "report.json"
    if failed is None or report.exists():
        data = json.loads(report.read_text(encoding="utf-8"))
        areas = {
            name: ", ".join(f"{area[count]} {count}" for count in ("passed", "failed", "skipped"))
            for name, area in data["areas"].items()
        }
        return {"failed": failed, "found": {"level": data["level"], **areas}}
    return {"failed": failed, "found": {path.parent.name: _counts(path) for path in out.glob("areas/*/records.jsonl")}}


def _counts(records: Path) -> str:
    """Of an area whose report was not written."""
    entries = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    outcomes = [entry["outcome"] for entry in entries if "outcome" in entry]
    return ", ".join(f"{outcomes.count(name)} {name}" for name in ("passed", "failed", "skipped"))


def machine(device: str) -> dict[str, str]:
    """The card and the versions that the figures belong to."""
    from importlib.metadata import version

    from anychip.platforms.selection import choose

    info = choose(device).info
    versions = {name: version(name) for name in ("torch", "transformers", "anychip")}
    return {"device": info.name, "description": info.description, **info.details, **versions,
            "date": time.strftime("%Y-%m-%d")}  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The whole result as Markdown."""
    lines = [f"# {result['machine']['description']}, {result['machine']['date']}", ""]
    lines += [f"- {name}: {value}" for name, value in result["machine"].items()]
    for name, part in result["parts"].items():
        lines += ["", f"## {name} ({part['seconds']:g} s)", ""]
        if part["failed"]:
            lines += ["Failed:", "", "~~~text", part["failed"].strip(), "~~~", ""]
        if part["found"]:
            lines += ["| what | value |", "| --- | --- |"]
            lines += [f"| {n} | {f'{v:.4g}' if isinstance(v, float) else v} |" for n, v in part["found"].items()]
    return "\n".join(lines) + "\n"


def part_of(name: str, options: argparse.Namespace, left: float) -> dict[str, Any]:
    """left: seconds for this part."""
    limit = min(LIMITS[name], left)
    if limit < LEAST:
        return {"failed": "it was not begun: the time for everything was used up", "found": {}, "seconds": 0.0}
    start = time.perf_counter()
    others = {"kernels": kernels, "conformance": conformance}
    part = others[name](options, limit) if name in others else measured(name, options, limit)
    return {**part, "seconds": round(time.perf_counter() - start, 1)}


def rounds(options: argparse.Namespace) -> list[list[str]]:
    """The parts that were asked for, those of a round at once."""
    models = ("tiny",) if options.small else MODELS
    asked = {name for part in options.parts for name in (models if part == "models" else (part,))}
    every = ("attention",), *((name,) for name in models), TOGETHER, ("conformance",)
    return [[name for name in names if name in asked] for names in every]


def results(options: argparse.Namespace, start: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part as it ends. start: of everything, as perf_counter had it."""
    asked = rounds(options)
    for i, names in enumerate(asked):
        later = sum(max((NEEDS[name] for name in after), default=0) for after in asked[i + 1 :])
        left = options.total - later - (time.perf_counter() - start)
        with ThreadPoolExecutor() as pool:
            running = {pool.submit(part_of, name, options, left): name for name in names}
            for done in as_completed(running):
                yield running[done], done.result()


def main() -> int:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--total", type=float, default=TOTAL, help=f"seconds for everything (default {TOTAL})")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.device, options.small)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    checkout.use(options.out / "site")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not options.small:
        started = measured("start", options, LIMITS["start"])
        print("started" if not started["failed"] else f"it did not start up:\n{started['failed']}", flush=True)
    result: dict[str, Any] = {"machine": machine(options.device), "parts": {}}
    for name, part in results(options, start):
        result["parts"][name] = part
        print(f"{name}: {'failed' if part['failed'] else 'done'} in {part['seconds']:g} s", flush=True)
        (options.out / "gpu_check.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (options.out / "gpu_check.md").write_text(table(result), encoding="utf-8")
    print(table(result))
    return 1 if any(part["failed"] for part in result["parts"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
