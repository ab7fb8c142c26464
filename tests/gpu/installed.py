"""Packages that are not really there, as a probe reads them."""

from __future__ import annotations

from types import SimpleNamespace

from anychip_sdk.kits import torch_build


def install(monkeypatch, folder, *, torch=None, cuda=None, hip=None, triton=None):
    """Versions, or None for what is not installed."""
    specs = {}
    for package, file, lines in (
        ("torch", "version.py", {"__version__": torch, "cuda: str | None": cuda, "hip: str | None": hip}),
        ("triton", "__init__.py", {"__version__": triton}),
    ):
        home = folder / package
        home.mkdir(exist_ok=True)
        (home / file).write_text("debug = False\n" + "".join(f"{name} = {value!r}\n" for name, value in lines.items()))
        there = lines["__version__"] is not None
        specs[package] = SimpleNamespace(origin=str(home / "__init__.py")) if there else None
    monkeypatch.setattr(torch_build, "find_spec", specs.get)
    monkeypatch.setattr(torch_build, "compiler_fault", lambda: None)
