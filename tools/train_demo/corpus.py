"""The training text: Python's standard library, as sources, docstrings and short dialogues.

A `Unit` is one file of the library or one topic of its reference manual. Units are assigned to training or
to the held-out set by a hash of their name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import random
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
TEST_SHARE = 25  # one unit in this many is held out

# Not prose, not library code, or written for one machine.
LEFT_OUT = {
    *("test", "tests", "idle_test", "site-packages", "__pycache__", "ensurepip"),
    *("idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data", "this.py", "antigravity.py"),
}
# Files with terms of their own beside Python's licence are left out, so that one licence covers the text.
OWN_TERMS = re.compile(
    r"permission to use, copy|permission is hereby|hereby granted|redistributions of source"
    r"|may redistribute it|under the same terms|Apache License|MIT License|CNRI",
    re.IGNORECASE,
)
# Modules written in C, whose docstrings are read from the running interpreter.
C_MODULES = ("builtins", "itertools", "math", "time", "sys", "posix", "_functools", "_collections", "_operator")
PUBLIC_NAMES = {"posixpath": "os.path", "posix": "os", "_pydecimal": "decimal", "_pyio": "io"}
STRAIGHT_QUOTES = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'}
QUESTIONS = (
    "What does {} do?",
    "Explain {}.",
    "What is {}?",
    "Tell me about {}.",
    "How does {} work?",
    "Describe {}",
)


@dataclass(frozen=True)
class Entry:
    """One documented object: its dotted name, its signature line ("" for a module) and its docstring."""

    name: str
    signature: str
    text: str


@dataclass(frozen=True)
class Unit:
    """One file or manual topic. `source` is empty for a topic; `entries` holds its docstrings in order."""

    name: str
    source: str
    entries: list[Entry] = field(default_factory=list)

    @property
    def held_out(self) -> bool:
        digest = hashlib.sha256(self.name.encode()).digest()
        return int.from_bytes(digest[:4], "big") % TEST_SHARE == 0


def clean(text: str) -> str:
    """Normalise whitespace: no tabs, no trailing blanks, no form feeds, at most two blank lines."""
    text = text.replace("\x0c", "").expandtabs(8)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{4,}", "\n\n\n", text).strip()


def is_table(source: str) -> bool:
    """True for data tables: rich in digits or in non-ASCII characters, or without any definition or import."""
    data = sum(c.isdigit() or not c.isascii() for c in source)
    letters = sum(c.isalpha() for c in source)
    return data * 6 > letters or not re.search(r"^\s*(def|class|import|from) ", source, re.MULTILINE)


def signature(node: ast.AST, name: str) -> str:
    """Return "name(arguments)" for a function, "class name(bases)" for a class, "" for a module."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return f"{name}({ast.unparse(node.args)})"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if bases else f"class {name}"
    return ""


def entries(tree: ast.Module, module: str) -> Iterator[Entry]:
    """Yield the docstrings of a module, its classes and its functions in source order."""

    def walk(node: ast.AST, name: str) -> Iterator[Entry]:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = clean(ast.get_docstring(node) or "")
            if len(text) >= 20:
                yield Entry(name, signature(node, name), text)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from walk(child, f"{name}.{child.name}")

    yield from walk(tree, module)


def module_name(path: Path) -> str:
    """Return the dotted name under which programs import the module at a path below the library's root."""
    parts = path.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return PUBLIC_NAMES.get(name, name)


def file_units(root: Path) -> Iterator[Unit]:
    """Yield the units of the library's Python files, repeated docstrings dropped."""
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if LEFT_OUT & set(relative.parts) or relative.parts[0].startswith(("_sysconfigdata", "config-")):
            continue
        source = clean(path.read_text(encoding="utf-8"))
        words = " ".join(source.replace("#", " ").split())
        if OWN_TERMS.search(words) or is_table(source):
            continue
        found = [e for e in entries(ast.parse(source), module_name(relative)) if e.text not in seen]
        seen.update(e.text for e in found)
        yield Unit(relative.as_posix(), source, found)


def c_module_units() -> Iterator[Unit]:
    """Yield one unit for each module of `C_MODULES`: its functions, its types and their methods."""
    seen: set[str] = set()
    for module in C_MODULES:
        public = PUBLIC_NAMES.get(module, module.lstrip("_"))
        scope = vars(importlib.import_module(module))
        objects = [(name, value) for name, value in sorted(scope.items()) if callable(value)]
        for name, value in list(objects):
            if isinstance(value, type):
                objects += [(f"{name}.{key}", member) for key, member in sorted(vars(value).items())]
        found: list[Entry] = []
        for name, value in objects:
            text = clean(inspect.getdoc(value) or "")
            if callable(value) and "__" not in name and len(text) >= 20 and text not in seen:
                seen.add(text)
                short = name if module == "builtins" else f"{public}.{name}"
                found.append(Entry(short, f"{short}{getattr(value, '__text_signature__', '') or ''}", text))
        yield Unit(f"c:{module}", "", found)


def topic_units() -> Iterator[Unit]:
    """Yield the topics of the language reference that pydoc carries."""
    for label, text in sorted(topics.items()):
        plain = clean(text.translate(STRAIGHT_QUOTES))
        plain = re.sub(r"^\*{3,}$\n?", "", plain, flags=re.MULTILINE)
        yield Unit(f"topic:{label}", "", [Entry(label, "", plain)])


def units() -> list[Unit]:
    """Return every unit of the running interpreter's standard library, in a fixed order."""
    return [*file_units(Path(sysconfig.get_path("stdlib"))), *c_module_units(), *topic_units()]


def pages(unit: Unit, rng: random.Random) -> Iterator[str]:
    """Yield the docstrings of a unit as running text, one to eight of them to a page."""
    at = 0
    while at < len(unit.entries):
        size = rng.randint(1, 8)
        yield "\n\n".join(entry.text for entry in unit.entries[at : at + size])
        at += size


def reference(unit: Unit) -> str:
    """Return a unit as a manual page: each signature with its docstring indented below."""
    parts = [f"{e.signature}\n{textwrap.indent(e.text, '    ')}" for e in unit.entries if e.signature]
    return "\n\n".join(parts)


def dialogue(entry: Entry, rng: random.Random) -> str:
    """Return a ChatML exchange that asks for an object and answers with its docstring."""
    name = entry.name if rng.random() < 0.5 else ".".join(entry.name.split(".")[-2:])
    ask = rng.choice(QUESTIONS).format(name)
    answer = "\n\n".join(entry.text.split("\n\n")[:4])
    return f"{IM_START}user\n{ask}{IM_END}\n{IM_START}assistant\n{answer}{IM_END}\n"


def epoch(training: list[Unit], rng: random.Random) -> list[str]:
    """Return one shuffled pass of documents; prose is given four forms or passes, source code one."""
    documents: list[str] = []
    for unit in training:
        documents.append(unit.source)
        documents.append(reference(unit))
        for _ in range(2):
            documents.extend(pages(unit, rng))
        documents.extend(dialogue(entry, rng) for entry in unit.entries if len(entry.text) >= 40)
    documents = [document for document in documents if document]
    rng.shuffle(documents)
    return documents
