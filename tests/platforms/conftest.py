from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PLUGIN = """
from anychip_sdk.contract import Manifest, hookimpl

@hookimpl
def anychip_platform():
    return Manifest(name={name!r}, platform="{name}_platform:Here", summary="planted", rank={rank})
"""
PLATFORM = """
from anychip_sdk.contract import Absent, Broken, DeviceError, DeviceInfo, Found, Platform

class Here(Platform):
    def probe(self):
        {probe}

    def open(self, index=0, *, threads=None):
        {open}
"""
FOUND = "return Found(tuple(DeviceInfo(name=n, description='planted', details={{}}) for n in {names}))"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs distributions with plugins beside the real ones, as pip would: modules and metadata on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    before = set(sys.modules)

    def make(
        name: str,
        rank: int = 50,
        *,
        plugin: str | None = None,
        platform: str | None = None,
        probe: str | None = None,
        open: str = "raise DeviceError('it is planted')",
        distribution: str = "",
    ) -> None:
        """plugin, platform: the text of the modules; probe, open: the methods' bodies, one line each."""
        distribution = distribution or f"anychip-{name}"
        module = distribution.replace("-", "_") + "_plugin"
        (site / f"{module}.py").write_text(PLUGIN.format(name=name, rank=rank) if plugin is None else plugin)
        probe = probe or FOUND.format(names=(name,))
        (site / f"{name}_platform.py").write_text(platform or PLATFORM.format(probe=probe, open=open))
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[anychip.platforms]\n{name} = {module}\n")

    yield make
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(site)):
            del sys.modules[module]
