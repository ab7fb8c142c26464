"""anychip cache: what is kept on disk for the next start."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anychip.errors import RequestError
from anychip.sizes import gib

if TYPE_CHECKING:
    from anychip.loading.weight_cache import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="list", choices=("list", "clear"), help="list (default) or clear")
    parser.add_argument("models", nargs="*", help="clear: names as list gives them; all if there are none")


def run(options: argparse.Namespace) -> None:
    from anychip.loading import weight_cache

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
        if not options.models and (place := weight_cache.folder()) is not None:
            weight_cache.drop_unfinished(place / "weights")
        print(f"removed {_count(chosen)}")
        return
    place = weight_cache.folder()
    if place is None:
        print(f"nothing is kept: {weight_cache.PLACE} is off, or no home directory is known")
        return
    print(f"packed weights in {place}")
    for entry in found:
        form = entry.form or "cannot be read: damaged, or of another version"
        print(f"{entry.model:32} {gib(entry.nbytes):>10}  {_ago(entry.used):>12}  {form}")
    if found:
        print(f"{_count(found)}; what is not used for {weight_cache.KEPT_DAYS} days goes when another model is written")
    else:
        print(f"none yet; models with less than {gib(weight_cache.LEAST)} of weights are packed at each start")


def _count(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} {'file' if len(entries) == 1 else 'files'}, {gib(sum(e.nbytes for e in entries))}"


def _ago(then: float) -> str:
    from time import time

    days = int((time() - then) // 86400)
    return "used today" if days < 1 else f"{days} days ago"
