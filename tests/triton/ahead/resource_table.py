"""What every program takes on every card, measured and committed. Run as a program it renews the table (see
CONTRIBUTING.md for how)."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import triton
from anychip_cuda.tiles import AMPERE, HOPPER
from anychip_rocm.tiles import TILES
from anychip_sdk.kits.triton import kernels
from kernel_compiler import TARGETS, Taken
from kernel_variants import Variants

TABLE = Path(__file__).with_name("resources.json")
TILES_OF = {"sm_80": AMPERE, "sm_90": HOPPER, **TILES}


def measured(target: str, step: int = 1) -> dict[str, Taken]:
    """Of every program of a card, or of each `step`-th."""
    programs = list(Variants(TILES_OF[target]).programs.items())[::step]
    return {name: made.compile(TARGETS[target]) for name, made in programs}


def made_of(target: str) -> str:
    """A digest of all that decides on what a card's programs are compiled to: Triton, the kernels' sources, and each
    launch."""
    found = sha256(f"{triton.__version__} {TARGETS[target]}".encode())
    for file in sorted(Path(kernels.__path__[0]).glob("*.py")):
        found.update(file.read_bytes())
    for name, p in Variants(TILES_OF[target]).programs.items():
        launch = name, p.kernel.__name__, p.signature, p.constants, p.aligned, p.warps, p.stages
        found.update(repr(launch).encode())
    return found.hexdigest()


def table() -> dict[str, dict[str, Taken]]:
    """target -> program -> what it takes."""
    targets = json.loads(TABLE.read_text(encoding="utf-8"))["targets"]
    return {target: {name: Taken(*row) for name, row in rows.items()} for target, rows in targets.items()}


def table_made_of() -> dict[str, str]:
    """target -> `made_of` when the table was measured."""
    digests: dict[str, str] = json.loads(TABLE.read_text(encoding="utf-8"))["made of"]
    return digests


def table_version() -> str:
    """The Triton that the table was measured with."""
    version: str = json.loads(TABLE.read_text(encoding="utf-8"))["triton"]
    return version


def renew() -> None:
    """A line for each program, so that a change shows as one."""
    parts = []
    for target in TARGETS:
        rows = ",\n".join(f"   {json.dumps(name)}: {list(row)}" for name, row in measured(target).items())
        parts.append(f"  {json.dumps(target)}: {{\n{rows}\n  }}")
    digests = ",\n".join(f"  {json.dumps(target)}: {json.dumps(made_of(target))}" for target in TARGETS)
    text = f'{{\n "triton": {json.dumps(triton.__version__)},\n "made of": {{\n{digests}\n }},\n "targets": {{\n'
    text += ",\n".join(parts) + "\n }\n}\n"
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    renew()
