"""The rules of the house that a test can hold: who imports whom, and what nobody calls."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core/src/anychip"
SDK = ROOT / "plugin_sdk/src/anychip_sdk"
PLATFORMS = sorted((ROOT / "platforms").glob("*/src/*"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = {d.split(">")[0].split("[")[0].replace("-", "_") for d in PROJECT["dependencies"]}


def sources(*roots: Path) -> list[Path]:
    return [path for root in roots for path in sorted(root.rglob("*.py"))]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether only a function or a type checker imports it) of every import, `import_module("...")` with a
    literal included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{shown(path)}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__", "find_spec"):
            argument = node.args[0] if node.args else None
            names = [argument.value] if isinstance(argument, ast.Constant) else []
        yield from ((name, id(node) in lazy) for name in names)


def for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def top(module: str) -> str:
    return module.partition(".")[0]


def test_the_core_imports_its_dependencies_and_the_contract_only():
    """No framework and no vendor, not even lazily. Of the SDK, two commands import what they are the face of, and the
    host samples as the oracle does."""
    fronts = {
        CORE / "cli/conformance.py": "anychip_sdk.conformance",
        CORE / "cli/plugin.py": "anychip_sdk.scaffold",
        CORE / "runner/host_sampling.py": "anychip_sdk.kits.numpy.sampling",
    }
    allowed = DEPENDENCIES | set(sys.stdlib_module_names) | {"anychip", "anychip_sdk"}
    strangers = [(shown(p), m) for p in sources(CORE) for m, _ in imports(p) if top(m) not in allowed]
    beyond = [
        (shown(p), m)
        for p in sources(CORE)
        for m, _ in imports(p)
        if top(m) == "anychip_sdk" and not m.startswith(("anychip_sdk.contract", fronts.get(p, "anychip_sdk.contract")))
    ]
    assert not strangers
    assert not beyond


def test_the_sdk_imports_nothing_of_the_core():
    """But for the conformance suite, which runs whole engines, from within its functions."""
    for path in sources(SDK):
        for module, lazy in imports(path):
            if top(module) == "anychip":
                assert lazy, (shown(path), module)
                assert (SDK / "conformance") in path.parents, (shown(path), module)


def test_the_contract_imports_no_kit_and_no_framework():
    allowed = set(sys.stdlib_module_names) | {"numpy", "pluggy"}
    for path in sources(SDK / "contract"):
        for module, _ in imports(path):
            assert (
                module.startswith("anychip_sdk.contract") or top(module) in allowed or module == "anychip_sdk.contract"
            ), (
                shown(path),
                module,
            )


@pytest.mark.parametrize("package", PLATFORMS, ids=lambda p: p.name)
def test_a_platform_imports_the_sdk_and_no_other_package_of_ours(package):
    ours = {"anychip"} | {p.name for p in PLATFORMS} - {package.name}
    for path in sources(package):
        for module, _ in imports(path):
            assert top(module) not in ours, (shown(path), module)


def test_nothing_runs_code_from_a_file():
    for path in sources(CORE, SDK, *PLATFORMS):
        for module, _ in imports(path):
            assert top(module) not in {"pickle", "marshal", "shelve", "dill", "cloudpickle"}, (shown(path), module)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{shown(path)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, where
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("torch", "load"), where
            if isinstance(node, ast.keyword):
                assert node.arg not in {"trust_remote_code", "allow_pickle"}, where


def test_no_test_sleeps():
    """`asyncio.sleep(0)` only lets others run."""
    for path in sources(ROOT / "tests"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and called(node) == "sleep":
                zero = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
                assert zero, f"{shown(path)}:{node.lineno}"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import anychip", {"torch", "jax", "transformers", "numpy", "tokenizers", "starlette", "huggingface_hub"}),
        ("import anychip; anychip.LLM, anychip.AsyncEngine, anychip.SamplingParams", {"torch", "jax", "transformers"}),
        ("from anychip.cli import main; main(['devices'])", {"torch", "jax", "transformers"}),
        ("import anychip_sdk.contract", {"torch", "jax", "transformers", "anychip"}),
    ],
    ids=["package", "names", "devices", "contract"],
)
def test_importing_is_cheap(code, absent):
    code += "; import sys; print(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    loaded = {top(name) for name in done.stdout.splitlines()[-1].split()}
    assert not loaded & absent
