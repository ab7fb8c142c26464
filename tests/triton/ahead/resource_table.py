"""What every program takes on every card, measured and committed. Run as a program it renews the table (see
CONTRIBUTING.md for how)."""

from __future__ import annotations

import json
from pathlib import Path

import triton
from anychip_cuda.tiles import AMPERE, HOPPER
from anychip_rocm.tiles import TILES
from kernel_compiler import TARGETS, Taken
from kernel_variants import Variants

TABLE = Path(__file__).with_name("resources.json")
TILES_OF = {"sm_80": AMPERE, "sm_90": HOPPER, **TILES}


def measured(target: str) -> dict[str, Taken]:
    return {name: made.compile(TARGETS[target]) for name, made in Variants(TILES_OF[target]).programs.items()}


def table() -> dict[str, dict[str, Taken]]:
    """target -> program -> what it takes."""
    targets = json.loads(TABLE.read_text(encoding="utf-8"))["targets"]
    return {target: {name: Taken(*row) for name, row in rows.items()} for target, rows in targets.items()}


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
    text = f'{{\n "triton": {json.dumps(triton.__version__)},\n "targets": {{\n' + ",\n".join(parts) + "\n }\n}\n"
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    renew()
