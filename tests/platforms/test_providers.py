"""Ops of another library: taken when asked for, never else, and never without a word on why not."""

from __future__ import annotations

import pytest
from anychip import LLM, PlatformError, RequestError
from anychip.cli import main
from anychip.platforms.selection import choose, open_device

WITH_PROVIDER = """
from anychip_sdk.contract import {names}

class Here(Platform):
    def probe(self):
        return Found((DeviceInfo(name="giver", description="planted", details={{}}),))

    def open(self, index=0, *, threads=None):
        raise DeviceError("it is planted")

    def providers(self):
        {providers}

    def open_with(self, provider, index=0, *, threads=None):
        raise DeviceError(f"it is planted, with {{provider}}")
"""


def refusal(device: str, provider: str) -> str:
    with pytest.raises(PlatformError) as caught:
        open_device(choose(device), 1, provider)
    message = str(caught.value)
    assert "\n" not in message
    return message


def giver(install, body: str) -> None:
    names = "Broken, DeviceError, DeviceInfo, Found, Platform, Provider"
    install("giver", platform=WITH_PROVIDER.format(names=names, providers=body))


# -- the core -----------------------------------------------------------------------------------------------------


def test_a_provider_that_the_device_does_not_have_is_refused_with_those_it_has(install):
    giver(install, "return (Provider(name='one', summary='1'), Provider(name='two', summary='2'))")
    assert refusal("giver", "three") == (
        "giver has no provider 'three'; it has one, two: choose one of these, or leave provider out"
    )
    assert refusal("numpy", "one") == "numpy has no provider 'one'; it has none: leave provider out"


def test_one_that_cannot_be_used_is_refused_with_what_mends_it(install):
    giver(install, "return (Provider(name='one', summary='1', broken=Broken('it is old', 'pip install one')),)")
    assert refusal("giver", "one") == "provider one cannot be used: it is old; to mend it: pip install one"


def test_it_is_opened_with_the_one_that_was_asked_for(install):
    giver(install, "return (Provider(name='one', summary='1'),)")
    assert refusal("giver", "one") == "giver cannot be opened: it is planted, with one"
    with pytest.raises(PlatformError, match=r"giver cannot be opened: it is planted$"):
        open_device(choose("giver"), None)


def test_a_platform_that_fails_to_say_costs_one_line(install):
    giver(install, "raise ValueError('no idea')")
    assert refusal("giver", "one") == "Here cannot say which providers it has: ValueError: no idea"


def test_it_reaches_the_engine_and_the_commands(capsys):
    with pytest.raises(PlatformError, match="numpy has no provider 'mkl'; it has none"):
        LLM("demo", "numpy", provider="mkl")
    with pytest.raises(RequestError, match="provider is 3; expected the name of a provider"):
        LLM("demo", "numpy", provider=3)
    for command in (
        ["generate", "--model", "demo", "--device", "numpy", "--provider", "mkl", "def f"],
        ["plan", "--model", "demo", "--device", "numpy", "--provider", "mkl"],
        ["conformance", "--device", "numpy", "--provider", "mkl", "--areas", "discovery"],
    ):
        assert main(command) == 1
        assert "numpy has no provider 'mkl'; it has none" in capsys.readouterr().err
    assert main(["devices", "--provider", "mkl"]) == 1
    assert "--provider mkl is of one device; give its NAME and -v as well" in capsys.readouterr().err
