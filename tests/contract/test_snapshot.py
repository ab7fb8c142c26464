"""The contract does not change unless its version does: `snapshot.txt` beside this file is what it was."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import pytest
from anychip_sdk import contract
from anychip_sdk.contract.snapshot import describe, main, snapshot

SNAPSHOT = Path(__file__).with_name("snapshot.txt")
RENEW = "python -m anychip_sdk.contract.snapshot --write tests/contract/snapshot.txt"


def problem(recorded: str) -> str | None:
    """What is wrong with a recorded snapshot, or None."""
    if recorded == snapshot():
        return None
    first, _, body = recorded.partition("\n")
    if body == describe() or first != f"contract {contract.CONTRACT_VERSION}":
        return f"snapshot.txt is of another version ({first}, now {contract.CONTRACT_VERSION}); renew it: {RENEW}"
    changes = difflib.unified_diff(body.splitlines(), describe().splitlines(), "recorded", "now", lineterm="", n=1)
    return (
        f"the contract changed, but its version is still {contract.CONTRACT_VERSION}. Raise CONTRACT_VERSION in "
        "contract/version.py (the minor for names or fields with defaults that are new, else the major), then run "
        f"{RENEW}\n" + "\n".join(changes)
    )


def test_the_contract_is_as_recorded():
    if text := problem(SNAPSHOT.read_text(encoding="utf-8")):
        pytest.fail(text, pytrace=False)


def test_a_change_without_a_new_version_is_shown_and_told():
    text = problem(snapshot().replace("window: int | None = None", "window: int = 0"))
    assert text is not None
    assert "version is still" in text
    assert RENEW in text
    assert "-    window: int = 0  keyword only" in text
    assert "+    window: int | None = None  keyword only" in text


@pytest.mark.parametrize("body", [describe(), "class Gone()\n"])
def test_after_a_new_version_the_file_must_be_renewed(body):
    text = problem("contract 0.9\n" + body)
    assert text is not None
    assert text.startswith("snapshot.txt is of another version (contract 0.9")


def test_every_public_name_is_described_and_nothing_depends_on_the_run():
    tops = [line for line in describe().splitlines() if not line.startswith(" ")]
    names = [line.removeprefix("class ").removeprefix("def ").partition("(")[0].split()[0].rstrip(":") for line in tops]
    assert names == [name for name in sorted(contract.__all__) if name != "CONTRACT_VERSION"]
    assert " at 0x" not in describe()
    assert str(Path.cwd()) not in describe()


@pytest.mark.parametrize(
    "line",
    [
        "    abstract def attend(self, q: Array, kv: KV, batch: Batch, layer: Layer) -> Array",
        "    def plan_shapes(self, bucket: Bucket) -> Shapes",
        "    abstract def open(self, index: int = 0, *, threads: int | None = None) -> Device | StepPlugin",
        "    def __call__(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray",
        "    TARGET = 8",
        "    const: np.ndarray | None = None  not compared",
        "    plan: Mapping[str, Array] = dict()",
        "    contract: Version = CONTRACT_VERSION  keyword only",
        "    major: int",
        "    rank: int = 0",
        "class Bucket() dataclass, frozen",
        "class Batch() dataclass",
        "class NotSupported(ContractError)",
        "NO_TOKEN = -1",
        "def words(key: StepKey, plan_shapes: Shapes = ()) -> int",
        "hookimpl: HookimplMarker",
    ],
)
def test_one_line_of_each_sort(line):
    assert line in describe().splitlines()


def test_the_command_prints_or_writes(tmp_path, monkeypatch, capsys):
    path = tmp_path / "snapshot.txt"
    for arguments in ([], ["--write", str(path)]):
        monkeypatch.setattr(sys, "argv", ["snapshot", *arguments])
        main()
    assert capsys.readouterr().out == snapshot() == path.read_text(encoding="utf-8")
