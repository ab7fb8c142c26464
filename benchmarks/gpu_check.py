"""Everything that is to be proved on a card, in one command:

    python benchmarks/gpu_check.py [--device cuda] [--out gpu-check] [--parts attention parity models conformance]

The conformance suite, greedy tokens beside Transformers', a memory check where compute-sanitizer is installed, and
speed: attention beside a copy, tokens a second beside Transformers and the roofline. Nothing is downloaded. Every part
is a process of its own with a time limit, eight minutes together; a part that fails is reported, and the exit status is
1. OUT/gpu_check.json and OUT/gpu_check.md are written. --small tries the command itself on any device, the cpu
included, in sizes whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from math import isnan
from pathlib import Path
from typing import Any

LIMITS = {
    "attention": 30, "memcheck": 40, "parity": 40, "Qwen3-0.6B": 60, "Llama-3.2-1B": 40, "Qwen3-8B": 90,
    "conformance": 170, "tiny": 120,
}  # fmt: skip
"""Seconds a part may take."""
MODELS = ("Qwen3-0.6B", "Llama-3.2-1B", "Qwen3-8B")
PARTS = ("attention", "memcheck", "parity", "models", "conformance")


def one(part: str, device: str, small: bool) -> dict[str, float]:
    """A part, in this process."""
    import gpu_attention
    import gpu_models
    import gpu_parity
    from anychip.platforms.selection import choose, open_device

    opened: Any = open_device(choose(device), None)
    place = opened.state(1).last_token.device
    if part == "attention":
        return gpu_attention.run(opened, small)
    with tempfile.TemporaryDirectory() as folder:
        if part == "parity":
            return gpu_parity.run(device, place, Path(folder))
        return gpu_models.run(device, place, part, Path(folder), small)


def measured(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """A part, in a process of its own: what it found, how long it took, and its last words where it failed."""
    command = [sys.executable, __file__, "--one", part, "--device", options.device]
    if options.small:
        command.append("--small")
    if part == "memcheck":
        tool = shutil.which("compute-sanitizer")
        if tool is None:
            return {"failed": None, "seconds": 0.0, "found": {"compute-sanitizer": "not installed"}}
        check = [tool, "--tool", "memcheck", "--error-exitcode", "9"]
        command = [*check, sys.executable, __file__, "--one", "attention", "--device", options.device, "--small"]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMITS[part], check=False)
        failed = None if done.returncode == 0 else (done.stderr or done.stdout)[-2000:]
    except subprocess.TimeoutExpired:
        failed = f"it did not end within {LIMITS[part]} s"
    took = round(time.perf_counter() - start, 1)
    if failed is not None:
        return {"failed": failed, "seconds": took, "found": {}}
    found = {"memory errors": 0} if part == "memcheck" else json.loads(done.stdout.splitlines()[-1])
    wrong = [name for name, count in found.items() if part == "parity" and name.endswith("different") and count]
    return {"failed": f"tokens differ: {wrong}" if wrong else None, "seconds": took, "found": found}


def conformance(options: argparse.Namespace) -> dict[str, Any]:
    out = options.out / "conformance"
    command = [sys.executable, "-m", "anychip", "conformance", "--device", options.device, "--quick", "--out", str(out)]
    if options.small:
        command += ["--areas", "discovery,kv_write"]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMITS["conformance"], check=False)
        failed = None if done.returncode == 0 else (done.stdout + done.stderr)[-2000:]
    except subprocess.TimeoutExpired:
        failed = f"it did not end within {LIMITS['conformance']} s"
    report = out / "report.json"
    data = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    found = {"level": data.get("level")} | {
        name: ", ".join(f"{area[count]} {count}" for count in ("passed", "failed", "skipped"))
        for name, area in data.get("areas", {}).items()
    }
    return {"failed": failed, "seconds": round(time.perf_counter() - start, 1), "found": found}


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = one(options.one, options.device, options.small)
        print(json.dumps({name: None if isnan(value) else value for name, value in found.items()}))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    models = ("tiny",) if options.small else MODELS
    names = [n for part in options.parts for n in (models if part == "models" else (part,))]
    result: dict[str, Any] = {"machine": machine(options.device), "parts": {}}
    for name in names:
        part = conformance(options) if name == "conformance" else measured(name, options)
        result["parts"][name] = part
        print(f"{name}: {'failed' if part['failed'] else 'done'} in {part['seconds']:g} s", flush=True)
        (options.out / "gpu_check.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (options.out / "gpu_check.md").write_text(table(result), encoding="utf-8")
    print(table(result))
    return 1 if any(part["failed"] for part in result["parts"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
