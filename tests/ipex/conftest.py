"""Tests of the provider `ipex`, where it can be used: `make test-ipex` makes an environment where it can."""

from __future__ import annotations

import pytest
from anychip_cpu.platform import CpuPlatform
from anychip_cpu.providers import providers

IPEX = {p.name: p for p in providers()}["ipex"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IPEX.broken is not None:
        why = pytest.mark.skip(reason=IPEX.broken.reason)
        for item in items:
            if item.path.parent.name == "ipex":
                item.add_marker(why)


@pytest.fixture(scope="session")
def device():
    return CpuPlatform().open_with("ipex", threads=1)
