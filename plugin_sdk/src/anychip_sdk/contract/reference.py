"""The contract's reference, in Markdown, from its docstrings.

`python -m anychip_sdk.contract.reference` prints it; `--write PATH` renews the file at PATH."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from anychip_sdk import contract

MODULES = (
    "hooks", "platform", "device", "ops", "attention", "allocator", "communicator", "batch", "specs", "step_plugin",
    "errors", "version",
)  # fmt: skip
"""In the order in which a plugin meets them."""

_WIDTH = 100
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def reference() -> str:
    """The whole page. Ends in a newline."""
    head = (
        f"# The contract {contract.CONTRACT_VERSION}\n\n"
        "Made from the docstrings of `anychip_sdk.contract`; renew it with\n"
        "`python -m anychip_sdk.contract.reference --write docs/vendors/contract.md`.\n"
        "Everything here is imported from `anychip_sdk.contract`.\n"
    )
    return "\n".join([head, *(text for name in MODULES for text in _module(name))])


def _module(name: str) -> Iterator[str]:
    tree = ast.parse(inspect.getsource(import_module(f"{contract.__name__}.{name}")))
    yield f"## {name}\n\n{_prose(ast.get_docstring(tree) or '')}\n"
    for node, doc in _documented(tree.body):
        if isinstance(node, ast.ClassDef) and node.name in contract.__all__:
            yield from _class(node)
        elif isinstance(node, _Function) and node.name in contract.__all__:
            yield _code(_signature(node)) + _paragraph(ast.get_docstring(node))
        elif _assigned(node) in contract.__all__:
            yield _code(ast.unparse(node)) + _paragraph(doc)


def _documented(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str | None]]:
    """Each statement, with the string that stands below it if there is one."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        yield node, inspect.cleandoc(text) if isinstance(text, str) else None


def _assigned(node: ast.stmt) -> str | None:
    """The name that a statement gives a value or a type to."""
    target = (
        node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
    )
    return target.id if isinstance(target, ast.Name) else None


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(name for base in node.bases if (name := ast.unparse(base)) != "Checked")
    yield f"### {node.name}{f' ({bases})' if bases else ''}\n" + _paragraph(ast.get_docstring(node))
    fields = [_field(item, doc) for item, doc in _documented(node.body) if not (_assigned(item) or "_").startswith("_")]
    if fields:
        yield "\n".join(fields) + "\n"
    for item in node.body:
        if isinstance(item, _Function) and (item.name == "__call__" or not item.name.startswith("_")):
            must = any(ast.unparse(d) == "abstractmethod" for d in item.decorator_list)
            yield (
                f"#### {node.name}.{item.name}{' (required)' if must else ''}\n\n"
                + _code(_signature(item))
                + (_paragraph(ast.get_docstring(item)))
            )


def _field(node: ast.stmt, doc: str | None) -> str:
    return f"- `{ast.unparse(node)}`" + (f"  \n  {' '.join(_prose(doc).split())}" if doc else "")


def _signature(node: _Function) -> str:
    """On one line, or a parameter a line where that is too long."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"def {node.name}({ast.unparse(node.args)}){returns}"
    if len(line) <= _WIDTH:
        return line
    parameters = "\n".join(f"    {text}," for text in _parameters(node.args))
    return f"def {node.name}(\n{parameters}\n){returns}"


def _parameters(found: ast.arguments) -> Iterator[str]:
    """One text a parameter, in order; `*` where the named ones begin."""
    plain = [None] * (len(found.args) - len(found.defaults))
    yield from map(_parameter, found.args, [*plain, *found.defaults])
    if found.kwonlyargs:
        yield "*"
    yield from map(_parameter, found.kwonlyargs, found.kw_defaults)


def _parameter(found: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(found) + (f" = {ast.unparse(default)}" if default else "")


def _code(text: str) -> str:
    return f"~~~python\n{text}\n~~~\n"


def _paragraph(doc: str | None) -> str:
    return f"\n{_prose(doc)}\n" if doc else ""


def _prose(text: str) -> str:
    """Stars outside of code are products, not emphasis."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("*", r"\*") for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m anychip_sdk.contract.reference", description="the contract's page")
    parser.add_argument("--write", metavar="PATH", type=Path, help="renew this file instead of printing")
    path = parser.parse_args().write
    if path is None:
        sys.stdout.write(reference())
    else:
        path.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
