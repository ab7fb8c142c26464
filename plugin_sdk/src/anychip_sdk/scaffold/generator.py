"""From a name, a framework and a kind to a package that installs, is found and runs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from types import MappingProxyType

from anychip_sdk.contract import CONTRACT_VERSION

FRAMEWORKS = ("torch", "jax", "numpy")
KINDS = ("ops", "step")

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_RESERVED = ("auto", "sdk")
_NEEDS: Mapping[str, str] = MappingProxyType({"torch": ', "torch>=2.8"', "jax": ', "jax>=0.10"', "numpy": ""})
_REFERENCE: Mapping[str, str] = MappingProxyType({
    "torch": "the torch kit", "jax": "the JAX kit", "numpy": "the numpy kit",
})  # fmt: skip
_FILES: Mapping[str, str] = MappingProxyType({
    "pyproject.toml": "pyproject.toml",
    "README.md": "README_{kind}.md",
    ".gitignore": "gitignore",
    ".github/workflows/ci.yml": "ci.yml",
    "src/{module}/__init__.py": "empty",
    "src/{module}/plugin.py": "plugin.py",
    "src/{module}/platform.py": "platform_{framework}.py",
    "src/{module}/device.py": "{kind}_{framework}.py",
    "tests/test_conformance.py": "test_conformance.py",
})  # fmt: skip
"""Path in the new package -> template. Templates end in .in: they are no Python until they are filled in."""


class ScaffoldError(Exception):
    """The package cannot be written as asked. One line: what was wrong, what was expected."""


@dataclass(frozen=True)
class Written:
    """`lines`: of Python, in all files, blank ones and comments included."""

    root: Path
    files: tuple[Path, ...]
    lines: int


def check_name(name: str, taken: Collection[str]) -> None:
    """taken: names of installed platforms. Raises ScaffoldError for a name that could not be a platform's, a
    distribution's and a module's at once, or that clashes with one that is installed."""
    if not _NAME.fullmatch(name):
        raise ScaffoldError(
            f"the name is {name!r}; expected lower-case letters and digits, in parts joined by - or _, a letter first"
        )
    if name in _RESERVED:
        raise ScaffoldError(f"the name {name!r} is reserved; take another")
    package, module = _package(name), _module(name)
    try:
        found = distribution(package)
    except PackageNotFoundError:
        if name in taken:
            raise ScaffoldError(f"a platform {name!r} is installed; take another name") from None
        if find_spec(module) is not None:
            raise ScaffoldError(f"a module {module} is there already; take another name") from None
    else:
        raise ScaffoldError(
            f"a distribution {package} {found.version} is installed; take another name, or pip uninstall {package}"
        )


def write_plugin(name: str, framework: str, kind: str, out: Path, *, taken: Collection[str] = ()) -> Written:
    """Writes `out`/anychip-`name`. framework: one of FRAMEWORKS; kind: one of KINDS. Raises ScaffoldError for a bad
    name, and where the folder exists: nothing is overwritten. Raises OSError where it cannot be written."""
    if framework not in FRAMEWORKS or kind not in KINDS:
        known = f"{', '.join(FRAMEWORKS)} and {', '.join(KINDS)}"
        raise ScaffoldError(f"framework is {framework!r} and kind {kind!r}; expected one each of {known}")
    check_name(name, taken)
    root = out / _package(name)
    if root.exists():
        raise ScaffoldError(f"{root} exists; remove it, or give another --out")
    words = {
        "name": name,
        "package": _package(name),
        "module": _module(name),
        "classname": "".join(part.capitalize() for part in re.split("[-_]", name)),
        "framework": framework,
        "needs": _NEEDS[framework],
        "reference": _REFERENCE[framework],
        "contract": ", ".join(map(str, CONTRACT_VERSION)),
    }
    written = []
    for target, template in _FILES.items():
        path = root / target.format(**words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_fill(template.format(kind=kind, **words), words), encoding="utf-8")
        written.append(path)
    lines = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in written if p.suffix == ".py")
    return Written(root, tuple(written), lines)


def _fill(template: str, words: Mapping[str, str]) -> str:
    if template == "empty":
        return ""
    source = files("anychip_sdk.scaffold") / "templates" / f"{template}.in"
    return Template(source.read_text(encoding="utf-8")).substitute(words)


def _package(name: str) -> str:
    return f"anychip-{name.replace('_', '-')}"


def _module(name: str) -> str:
    return f"anychip_{name.replace('-', '_')}"
