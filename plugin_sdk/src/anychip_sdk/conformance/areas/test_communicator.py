"""Collectives: in this process for the device's own group of one, and between real processes for groups of 2 and 4."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anychip_sdk.conformance.marks import check
from anychip_sdk.conformance.plugin import Settings
from anychip_sdk.conformance.ranks import Group, laws, strided
from anychip_sdk.contract import ContractError, Device

TIMEOUT, LIMIT = 6.0, 60.0
"""Seconds after which a waiting call must raise, and after which a check gives its ranks up."""


@check(since="1.0")
def test_a_group_of_one(device: Device) -> None:
    """Every collective gives back what it got."""
    if device.size != 1:
        pytest.skip("the device is one of several ranks")
    laws(Group(device))
    strided(Group(device))


@check(since="1.0")
def test_a_group_of_one_has_no_other_rank(device: Device) -> None:
    if device.size != 1:
        pytest.skip("the device is one of several ranks")
    with pytest.raises(ContractError):
        device.communicator.broadcast(device.state(4).last_token, 1)
    with pytest.raises(ContractError):
        device.communicator.send(device.state(4).last_token, 1)


def ranks(case: str, size: int, settings: Settings, device: Device, folder: Path) -> None:
    """Runs a case on every rank, each in a process of its own; a hang is a failure, not a wait for ever."""
    most = device.capabilities.max_world_size
    if settings.group is None:
        if most > 1:
            pytest.fail(f"max_world_size {most} is declared; give --group MODULE:FUNCTION, which opens one rank")
        pytest.skip("max_world_size is 1 and no --group is given")
    if size > max(most, 4):
        pytest.skip(f"max_world_size is {most}")
    options = ["--group", settings.group, "--rendezvous", str(folder / "store"), "--timeout", str(TIMEOUT)]
    module = [sys.executable, "-m", "anychip_sdk.conformance.ranks", case, "--size", str(size), *options]
    processes = [
        subprocess.Popen(  # noqa: S603 - our own module, no shell
            [*module, "--rank", str(r)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for r in range(size)
    ]
    try:
        said = [_words(process, r, case) for r, process in enumerate(processes)]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for r, (process, text) in enumerate(zip(processes, said, strict=True)):
        last = text.strip().splitlines()[-1] if text.strip() else "nothing"
        gone = case == "dead" and r == size - 1
        assert process.returncode == 0 and (gone or last == "ok"), f"rank {r} of {size} said {last}\n{text}"  # noqa: PT018


def _words(process: subprocess.Popen[str], rank: int, case: str) -> str:
    try:
        return process.communicate(timeout=LIMIT)[0]
    except subprocess.TimeoutExpired:
        pytest.fail(f"rank {rank} was still waiting after {LIMIT:g} s; within {TIMEOUT:g} s it had to raise ({case})")


@check(since="1.0", claim="max_world_size")
@pytest.mark.parametrize("case", ["laws", "strided", "pairs", "uneven", "tensor_parallel"])
def test_two_ranks(case: str, settings: Settings, device: Device, tmp_path: Path) -> None:
    ranks(case, 2, settings, device, tmp_path)


@check(since="1.0", claim="max_world_size")
def test_ranks_that_disagree_get_an_error(settings: Settings, device: Device, tmp_path: Path) -> None:
    ranks("mismatch", 2, settings, device, tmp_path)


@check(since="1.0", claim="max_world_size")
@pytest.mark.parametrize("size", [2, 4])
def test_a_dead_rank_is_noticed(size: int, settings: Settings, device: Device, tmp_path: Path) -> None:
    ranks("dead", size, settings, device, tmp_path)


@check(since="1.0", claim="max_world_size")
@pytest.mark.parametrize("case", ["laws", "strided", "tensor_parallel"])
def test_four_ranks(case: str, settings: Settings, device: Device, tmp_path: Path) -> None:
    ranks(case, 4, settings, device, tmp_path)


@check(since="1.0", level="gold", tier="certify")
def test_groups_of_four_are_declared(settings: Settings, device: Device) -> None:
    assert device.capabilities.max_world_size >= 4, "Gold needs max_world_size of 4 or more"
    assert settings.group is not None, "Gold needs --group MODULE:FUNCTION, which opens one rank of four"
