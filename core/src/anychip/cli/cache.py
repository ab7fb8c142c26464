"""anychip cache: what is kept on disk for the next start."""

from __future__ import annotations

import argparse

from anychip.errors import RequestError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="list", choices=("list", "clear"), help="list (default) or clear")
    parser.add_argument("models", nargs="*", help="clear: names as list gives them; all if there are none")


def run(options: argparse.Namespace) -> None:
    from anychip.loading import weight_cache
    from anychip.sizes import gib

    if options.models and options.what == "list":
        raise RequestError(f"cache list takes no names, got {options.models[0]!r}; leave them out")
    found = weight_cache.entries()
    if options.what == "clear":
        known = {entry.model for entry in found}
        for name in options.models:
            if name not in known:
                raise RequestError(f"nothing is kept of {name!r}; there is: {', '.join(sorted(known)) or 'nothing'}")
        chosen = [entry for entry in found if not options.models or entry.model in options.models]
        for entry in chosen:
            entry.path.unlink(missing_ok=True)
        print(f"removed {len(chosen)} files, {gib(sum(entry.nbytes for entry in chosen))}")
        return
    place = weight_cache.folder()
    print(f"packed weights in {place}" if place else f"nothing is kept: {weight_cache.PLACE} is off")
    for entry in found:
        print(f"{entry.model:32} {gib(entry.nbytes):>10}  {_ago(entry.used):>12}  {entry.form}")


def _ago(then: float) -> str:
    from time import time

    days = int((time() - then) // 86400)
    return "used today" if days < 1 else f"{days} days ago"
