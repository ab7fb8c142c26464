"""Compiles recorded launches for a card that is not there, and reads what each program takes of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from anychip_sdk.kits.triton.launch import Launch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64",
    torch.int8: "i8", torch.uint8: "u8",
}  # fmt: skip
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
    "gfx1100": GPUTarget("hip", "gfx1100", 32),
}


class Taken(NamedTuple):
    """Of one program: bytes shared by its warps, vector registers of a lane, bytes of a lane that are spilled."""

    shared: int
    registers: int
    spilled: int


@dataclass(frozen=True)
class Program:
    """A launch as the compiler sees it. Equal ones are one program."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[int, Any], ...]
    aligned: tuple[int, ...]
    """arguments known to be divisible by 16"""
    warps: int
    stages: int

    def compile(self, target: GPUTarget) -> Taken:
        constants = {(i,): value for i, value in self.constants}
        attributes = {(i,): [["tt.divisibility", 16]] for i in self.aligned}
        source = ASTSource(self.kernel, dict(self.signature), constants, attributes)
        options = {"num_warps": self.warps, "num_stages": self.stages}
        made = triton.compile(source, target=target, options=options)
        registers, spilled = (nvidia if target.backend == "cuda" else amd)(made)
        return Taken(made.metadata.shared, registers, spilled)


def program(launch: Launch) -> Program:
    """As Triton's JIT would compile it: whole numbers and pointers divisible by 16 are, ones are constants."""
    parameters = launch.kernel.params
    values = (*launch.args, *(launch.constants[p.name] for p in parameters[len(launch.args) :]))
    types = [described(p, value) for p, value in zip(parameters, values, strict=True)]
    return Program(
        launch.kernel,
        tuple((p.name, kind) for p, (kind, _) in zip(parameters, types, strict=True)),
        tuple((i, values[i]) for i, (kind, _) in enumerate(types) if kind == "constexpr"),
        tuple(i for i, (_, aligned) in enumerate(types) if aligned),
        launch.warps,
        launch.stages,
    )


def described(parameter: Any, value: Any) -> tuple[str, bool]:
    """Type of an argument, and whether it is known to be divisible by 16."""
    if parameter.is_constexpr or value is None:
        return "constexpr", False
    free = not parameter.do_not_specialize
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}", free and not parameter.do_not_specialize_on_alignment
    if isinstance(value, float):
        return "fp32", False
    if free and value == 1:
        return "constexpr", False
    return "i32" if -(2**31) <= value < 2**31 else "i64", free and value % 16 == 0


def nvidia(made: Any) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run((tool, "--dump-resource-usage", file.name), capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", said.stdout)
    assert found, said.stdout
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def amd(made: Any) -> tuple[int, int]:
    text = made.asm["amdgcn"]
    number = {name: int(value) for name, value in re.findall(r"\.(\w+_count):\s+(\d+)", text)}
    return number["vgpr_count"], 4 * number["vgpr_spill_count"]  # scalar registers are spilled into vector registers
