"""An editable install without an installer: what one leaves in a site folder, so that a test needs no build and no
network, and leaves the environment as it was."""

from __future__ import annotations

import tomllib
from pathlib import Path


def install(root: Path, site: Path) -> None:
    """root: a project with src layout and entry points. site: a folder that is, or will be, on the path."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {module}" for name, module in points.items()), ""])
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    for package in (root / "src").iterdir():
        (site / package.name).symlink_to(package.resolve(), target_is_directory=True)
