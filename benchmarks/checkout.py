"""Makes a checkout importable without an installer: what an editable install leaves behind, in a folder of its own."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def use(site: Path) -> None:
    """This process, and those that it starts, import the core, the SDK and every platform from the checkout, and find
    the platforms by their entry points, whatever else is installed. site: where the metadata is put."""
    site.mkdir(parents=True, exist_ok=True)
    projects = [ROOT, *sorted(path.parent for path in ROOT.glob("platforms/*/pyproject.toml"))]
    for folder in projects:
        _describe(tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"], site)
    sources = [ROOT / "core/src", ROOT / "plugin_sdk/src", *(folder / "src" for folder in projects[1:])]
    paths = [str(path.resolve()) for path in (site, *sources)]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])


def _describe(project: dict[str, Any], site: Path) -> None:
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = []
    for group, points in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {module}" for name, module in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
