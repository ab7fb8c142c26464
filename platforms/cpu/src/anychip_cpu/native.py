"""The kernels of our own, written in C++: finding the library, and its functions for one instruction set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ctypes import CDLL, POINTER, Structure, addressof, c_char_p, c_float, c_int64, c_void_p, sizeof
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from anychip_sdk.contract import Activation, DeviceError

from anychip_cpu.library import library_path

FORCED = "ANYCHIP_CPU_ISA"
"""Environment variable that names the instruction set to use, for tests and comparisons: one of `isas()`, or NONE."""

NONE = "none"
"""In ANYCHIP_CPU_ISA: no kernels of our own, so that the torch kit does the work, as where no compiler was found."""

DECODE_CHUNK = 256
PREFILL_ROWS = 96
JOINED_ROWS = 384
GROUP_MAX = 64
HEAD_MAX = 256
INPUT_GROUP = 128
FEW = 4
SAMPLE_BYTES = 16
"""ANYCHIP_DECODE_CHUNK, ANYCHIP_PREFILL_ROWS, ANYCHIP_JOINED_ROWS, the most query heads of one KV head,
ANYCHIP_HEAD_MAX, ANYCHIP_INPUT_GROUP, ANYCHIP_FEW_ROWS and ANYCHIP_SAMPLE_BYTES, of the header."""

_P, _N, _F = c_void_p, c_int64, c_float


def _struct(**fields: str) -> tuple[tuple[str, Any], ...]:
    """Fields of a C struct by their types' letters: P pointer, N int64, F float."""
    kinds = {"P": _P, "N": _N, "F": _F}
    return tuple((name, kinds[kind]) for kind, names in fields.items() for name in names.split())


class PackWork(Structure):
    """`AnychipPack` of native/include/anychip_cpu.h; so with the others."""

    _fields_ = _struct(P="weight packed scales", N="outputs inputs bits group")


class LinearWork(Structure):
    _fields_ = _struct(
        P="x packed scales bias y scratch live starts",
        N="x_stride rows outputs inputs y_stride bits group groups activation",
    )


class NormWork(Structure):
    _fields_ = _struct(P="x residual weight y total live", N="x_stride y_stride rows size", F="eps")


class GatedWork(Structure):
    _fields_ = _struct(P="gate up y live", N="gate_stride up_stride y_stride rows size activation")


class GatherWork(Structure):
    _fields_ = _struct(P="x ids y live", N="x_stride y_stride rows size", F="scale")


class RopeWork(Structure):
    _fields_ = _struct(P="positions inverse cosine sine live", N="tokens half")


class LogitsWork(Structure):
    _fields_ = _struct(P="x y live", N="rows size", F="softcap")


class SampleWork(Structure):
    _fields_ = _struct(
        P="logits sampling edit_row edit_token edit_value count_row count_token count_output count_seen row_slot "
        "last_token tokens logprob rank top_tokens top_logprobs scratch live",
        N="rows vocabulary logits_stride sampling_stride edits counts top",
    )


class ScreenWork(Structure):
    _fields_ = _struct(P="x packed bounds y scratch live", N="x_stride rows outputs inputs")


class LargestWork(Structure):
    _fields_ = (("product", LinearWork), *_struct(P="upper known"))


class RouteWork(Structure):
    _fields_ = _struct(
        P="scores chosen weights starts token place live", N="scores_stride tokens experts top renormalize"
    )


class CombineWork(Structure):
    _fields_ = _struct(P="x weights place y live", N="tokens top size")


class AttentionWork(Structure):
    _fields_ = _struct(
        P="q out keys values key_scales value_scales scratch counts pages lengths starts task_first task_sequence"
        " task_order",
        N="heads kv_heads head_dim v_dim page_size pages_stride out_stride window kept scratch_stride",
        F="scale softcap",
    )


class PrepareWork(Structure):
    _fields_ = _struct(
        P="q k v out keys values key_scales value_scales slots cosine sine q_norm k_norm live",
        N="q_stride k_stride v_stride tokens heads kv_heads head_dim v_dim page_size kept",
        F="eps",
    )


class Command(Structure):
    """A kernel's address and that of its arguments; and what it reads in parts that threads share, `reads`, or None."""

    _fields_ = (*_struct(P="kernel arguments reads"), *_struct(N="parts part_bytes"))


@dataclass(frozen=True)
class Reads:
    """`parts` parts of `part_bytes` one after another from an address on. Every thread reads its share, in order."""

    address: int
    parts: int
    part_bytes: int


def command(kernel: int, arguments: Structure, reads: Reads | None = None) -> Command:
    rest = () if reads is None else (reads.address, reads.parts, reads.part_bytes)
    return Command(kernel, addressof(arguments), *rest)


SUFFIXES: Mapping[torch.dtype, str] = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
"""Kinds of numbers that kernels compute with, and the ends of their names."""
KEPT: Mapping[torch.dtype, int] = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
"""What pages hold, by the header's numbers."""


ACTIVATIONS: Mapping[Activation | None, int] = {None: 0, "silu": 1, "gelu_tanh": 2}
"""Of a gated product, by the header's numbers."""


def _each(name: str) -> tuple[str, ...]:
    return tuple(f"{name}_{suffix}" for suffix in SUFFIXES.values())


KERNELS = (
    "pack_f32", "linear_f32", "linear_f32_bf16", "linear_f32_f16", *_each("rms_norm"), *_each("gated"), "gather",
    "embedding_f32", "embedding_f32_bf16", "embedding_f32_f16", "embedding_bf16", "embedding_f16", "rope_angles",
    *_each("logits"), "sample", "screen_f32", "screen_f32_bf16", "screen_f32_f16",
    *_each("route"), *_each("combine"), *_each("prepare"), "plan", *_each("decode"),
    *_each("prefill"), "pack_bf16", "linear_bf16", "pack_f16", "linear_f16", "pack_int", *_each("linear_int"),
    "largest_int",
)  # fmt: skip


class Kernels(Structure):
    """`AnychipKernels` of native/include/anychip_cpu.h: addresses of kernels by the names in KERNELS."""

    name: bytes
    width: int

    _fields_ = (("name", c_char_p), ("width", _N), *((name, _P) for name in KERNELS))

    def of(self, name: str, dtype: torch.dtype, weight: torch.dtype | None = None) -> int:
        """The kernel for numbers of this kind, and for a weight that is kept in another."""
        suffix = "" if weight in (None, dtype) else f"_{SUFFIXES[weight]}"
        address: int = getattr(self, f"{name}_{SUFFIXES[dtype]}{suffix}")
        return address

    def __getattr__(self, name: str) -> int:
        raise AttributeError(f"there is no kernel {name}")  # the fields are found before this is asked


SIZES = "".join(
    f"{sizeof(struct)} "
    for struct in (
        *(Kernels, Command, PackWork, LinearWork, NormWork, GatedWork, GatherWork, RopeWork),
        *(LogitsWork, SampleWork, RouteWork, CombineWork, PrepareWork, AttentionWork, ScreenWork, LargestWork),
    )
)
"""What `anychip_cpu_sizes` of a library with these structures says."""


@cache
def library() -> CDLL | None:
    """None where there is none. torch must have been imported, so that both use its OpenMP.

    Raises DeviceError for one that was built from other sources than these."""
    path = library_path()
    if path is None:
        return None
    found = CDLL(str(path))
    sizes = getattr(found, "anychip_cpu_sizes", None)
    if sizes is not None:
        sizes.restype = c_char_p
    if sizes is None or sizes().decode() != SIZES:
        raise DeviceError(f"{path} was built from other sources than anychip-cpu's; install anychip-cpu again")
    found.anychip_cpu_isas.restype = c_char_p
    found.anychip_cpu_kernels.argtypes = (c_char_p,)
    found.anychip_cpu_kernels.restype = POINTER(Kernels)
    found.anychip_cpu_advise.argtypes = (_P, _N)
    found.anychip_cpu_advise.restype = None
    found.anychip_cpu_run.argtypes = (POINTER(Command), _N, _N)
    found.anychip_cpu_run.restype = None
    return found


def isas() -> list[str]:
    """The instruction sets that this processor has kernels for, best first; none without the library."""
    found = library()
    return [] if found is None else str(found.anychip_cpu_isas().decode()).split()


def kernels(isa: str | None = None) -> Kernels | None:
    """isa: None takes ANYCHIP_CPU_ISA, else the best. None where there is no library, or for NONE.

    Raises DeviceError for one that the processor does not have."""
    asked = isa or os.environ.get(FORCED)
    if asked == NONE:
        return None
    found = library()
    if found is None:
        if asked:
            raise DeviceError(
                f"{FORCED} is {asked}, but anychip-cpu was installed without its kernels; see anychip devices -v"
            )
        return None
    available = isas()
    if asked and asked not in available:
        raise DeviceError(
            f"{FORCED} is {asked!r}; use {NONE}, or what this processor has kernels for: {', '.join(available)}"
        )
    result: Kernels = found.anychip_cpu_kernels((asked or available[0]).encode()).contents
    return result


def advise(start: int, size: int) -> None:
    """Asks for huge pages behind `size` bytes at `start`, before they are written; does nothing without the library."""
    found = library()
    if found is not None:
        found.anychip_cpu_advise(start, size)


def run(kernel: int, arguments: Structure, threads: int) -> None:
    """One kernel, on `threads` threads. What the arguments point to must live until it returns."""
    found = library()
    assert found is not None  # or there would be no kernel
    found.anychip_cpu_run(command(kernel, arguments), 1, threads)


class Stretch:
    """Kernels that run in order in one call, on `threads` threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._held: list[Structure] = []
        self._commands: list[Command] = []
        self._array: Any = None

    def add(self, kernel: int, arguments: Structure, reads: Reads | None = None) -> None:
        self._held.append(arguments)
        self._commands.append(command(kernel, arguments, reads))

    def kernels(self) -> list[tuple[int, Structure]]:
        """In order, with their arguments."""
        return [(command.kernel, work) for command, work in zip(self._commands, self._held, strict=True)]

    def __call__(self) -> None:
        found = library()
        assert found is not None  # or there would be no kernel
        if self._array is None:
            self._array = (Command * len(self._commands))(*self._commands)
        found.anychip_cpu_run(self._array, len(self._commands), self._threads)
