"""Every kernel variant of the tables of tiles, compiled for every card with none present: what it takes fits the card,
nothing of weight is spilled, and it is what the committed table says."""

from __future__ import annotations

import os

import pytest
import triton
from kernel_compiler import TARGETS
from resource_table import made_of, measured, table, table_made_of, table_version

SHARED = {"sm_80": 99 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024, "gfx950": 160 * 1024, "gfx1100": 64 * 1024}
"""Bytes that one program may have. The tiles of 8.0 also serve 8.6, 8.9 and 12.0, which have less than its 163 KB."""
SPILLED = 32
"""Bytes of a lane. NVIDIA's assembler gives up a few registers where one more program then fits beside."""
PART = 6
"""One program of so many is compiled where nothing has changed: attention alone takes two cores five minutes."""
KNOWN = {
    ("gfx1100", f"attention_kernel {what} {kind}"): spilled
    for what, spilled in {
        "float32 32/8 x 256": 600,
        **{f"float32 32/8 x 128 {kept}": 300 for kept in ("int8", "fp8")},
        **{f"float32 32/8 x 256 {kept}": 1300 for kept in ("int8", "fp8")},
        **{f"bfloat16 32/8 x 256 {kept}": 400 for kept in ("int8", "fp8")},
    }.items()
    for kind in ("decode", "prefill")
}
"""RDNA has no matrix cores for float32: an operand of 256 columns lies whole in a lane's registers. So it does where it
was widened from 8 bits; no other tile that was tried spills less."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.parametrize("target", TARGETS),
]


def test_every_program_fits_the_card(target):
    for name, taken in table()[target].items():
        assert taken.shared <= SHARED[target], f"{name} takes {taken.shared} bytes of shared memory on {target}"
        assert taken.spilled <= KNOWN.get((target, name), SPILLED), f"{name} spills {taken.spilled} bytes on {target}"


def test_programs_compile_to_what_the_table_says(target):
    """All of them, once anything of them has changed; of those that the table was made of, a part."""
    changed = made_of(target) != table_made_of()[target] or "ANYCHIP_COMPILE_ALL" in os.environ
    found, wanted = measured(target, 1 if changed else PART), table()[target]
    assert found.keys() == wanted.keys() if changed else found.keys() < wanted.keys()
    if triton.__version__ != table_version():
        pytest.skip(f"every program compiles; the table is of Triton {table_version()}, this is {triton.__version__}")
    other = {name: (list(wanted[name]), list(found[name])) for name in found if found[name] != wanted[name]}
    assert not other, "renew the table with tests/triton/ahead/resource_table.py and look at the difference"
