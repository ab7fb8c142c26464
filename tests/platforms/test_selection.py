"""What `--device` means, and what is said when there is no such thing."""

from __future__ import annotations

import pytest
from anychip import LLM, PlatformError
from anychip.platforms.selection import choose, open_device

TWO = "return Found(tuple(DeviceInfo(name=f'pair:{i}', description='', details={}) for i in range(2)))"


def refusal(device: str) -> str:
    with pytest.raises(PlatformError) as caught:
        choose(device)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_auto_takes_the_highest_rank_that_is_found(install):
    assert choose("auto").info.name == "cpu"
    assert choose("auto").reason == "cpu is the first choice of what is here"
    install("slow", 5)
    assert choose("auto").info.name == "cpu"
    install("fast", 50)
    assert choose("auto").info.name == "fast"


def test_auto_passes_over_what_is_absent_and_says_so(install):
    install("away", 50, probe="return Absent('no such card')")
    install("bare", 40, probe="return Found(())")
    choice = choose("auto")
    assert choice.info.name == "cpu"
    assert choice.reason == (
        "away is absent: no such card; bare has 0 devices; cpu is the first choice of what is here"
    )


def test_auto_stops_at_a_broken_platform_of_higher_rank(install):
    install("ill", 50, probe="return Broken('driver 1 is too old', 'apt install driver')")
    assert refusal("auto") == (
        "ill is broken: driver 1 is too old; to mend it: apt install driver; or name another device with --device"
    )
    assert choose("cpu").info.name == "cpu"


def test_auto_stops_at_a_plugin_that_does_not_load(install):
    """Its rank is unknown: it could be the best device of the machine."""
    install("ill", plugin="import no_such_module")
    assert refusal("auto").startswith("ill is broken: anychip-ill 1.0: its plugin")
    assert choose("numpy").info.name == "numpy"


def test_a_broken_platform_of_lower_rank_does_not_matter(install):
    install("ill", 5, probe="return Broken('driver 1 is too old', 'apt install driver')")
    assert choose("auto").info.name == "cpu"


def test_a_named_device_is_that_or_an_error(install):
    """Never another one instead."""
    install("ill", 50, probe="return Broken('driver 1 is too old', 'apt install driver')")
    install("away", 50, probe="return Absent('no such card')")
    install("bare", 50, probe="return Found(())")
    assert refusal("ill") == "ill is broken: driver 1 is too old; to mend it: apt install driver"
    assert refusal("away") == "away is absent: no such card"
    assert refusal("away:1") == "away is absent: no such card"
    assert refusal("bare").startswith("bare has found no device; ")


@pytest.mark.parametrize("name", ["gpu", "", "Numpy", "auto:0", ":1", "cpu "])
def test_an_unknown_name_lists_what_there_is(name):
    message = refusal(name)
    assert message.startswith(f"there is no device {name.partition(':')[0]!r}; installed: cpu, numpy: choose one")


def test_an_index_chooses_among_several(install):
    install("pair", probe=TWO)
    assert [choose(f"pair{i}").index for i in ("", ":0", ":1")] == [0, 0, 1]
    assert choose("pair:1").info.name == "pair:1"
    for index in ("2", "-1", "x", "0x1"):
        assert refusal(f"pair:{index}") == f"there is no device pair:{index}; pair has 2: pair:0, pair:1"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise DeviceError('it is in use')", "it is in use"),
        ("raise RuntimeError('CHIP_ERROR 7\\nat line 3')", "RuntimeError: CHIP_ERROR 7"),
        ("return None", "it gave None, no Device and no StepPlugin"),
    ],
)
def test_a_device_that_cannot_be_opened(install, body, said):
    install("shut", open=body)
    with pytest.raises(PlatformError) as caught:
        open_device(choose("shut"), None)
    assert str(caught.value) == f"shut cannot be opened: {said}"
    with pytest.raises(PlatformError, match="shut cannot be opened"):
        LLM("demo", "shut")


def test_threads_reach_the_platform():
    with pytest.raises(PlatformError, match="numpy cannot be set to 3 threads"):
        LLM("demo", "numpy", threads=3)
