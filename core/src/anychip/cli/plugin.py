"""anychip plugin: a new package for a chip."""

from __future__ import annotations

import argparse
from pathlib import Path

from anychip.errors import PlatformError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from anychip_sdk.scaffold import FRAMEWORKS, KINDS

    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="write a package that installs, is found and runs on reference ops")
    new.add_argument("name", metavar="NAME", help="as --device will take it; the package is anychip-NAME")
    new.add_argument("--framework", choices=FRAMEWORKS, default="torch", help="what the chip knows (default torch)")
    new.add_argument("--kind", choices=KINDS, default="ops", help="ops one by one, or whole steps (default ops)")
    new.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where the package's folder goes")


def run(options: argparse.Namespace) -> None:
    from anychip_sdk.scaffold import ScaffoldError, write_plugin

    from anychip.platforms.discovery import discover

    taken = [plugin.name for plugin in discover()]
    try:
        done = write_plugin(options.name, options.framework, options.kind, options.out, taken=taken)
    except ScaffoldError as error:
        raise PlatformError(str(error)) from error
    except OSError as error:
        raise PlatformError(f"cannot write {error.filename}: {error.strerror}; give another --out") from error
    print(f"wrote {done.root}: {len(done.files)} files, {done.lines} lines of Python")
    for path in done.files:
        print(f"    {path.relative_to(done.root)}")
    print("next:")
    print(f'    pip install -e "{done.root}[test]"')
    print("    anychip devices -v")
    print(f'    anychip generate --model demo --device {options.name} "Return a list of"')
    print(f"    anychip conformance --device {options.name} --quick")
