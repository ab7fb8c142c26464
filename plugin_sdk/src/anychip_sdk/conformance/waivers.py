"""Known failures that are lived with for a while: a file of them, read strictly."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

from anychip_sdk.conformance.under_test import SuiteError


@dataclass(frozen=True)
class Waiver:
    """`id`: of one check, as the report names it. `link`: where the work on it is followed. `expiry`: its last day."""

    id: str
    reason: str
    link: str
    expiry: date


def read_waivers(path: Path) -> dict[str, Waiver]:
    """TOML with [[waiver]] tables, or JSON with a list "waiver". Raises SuiteError for anything that is not just
    right."""
    try:
        text = path.read_text(encoding="utf-8")
        data: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SuiteError(f"cannot read the waivers {path}: {error.strerror}") from error
    except ValueError as error:
        raise SuiteError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from error
    entries = data.get("waiver") if isinstance(data, dict) else None
    if not isinstance(entries, list) or set(data) != {"waiver"}:
        raise SuiteError(f"{path} must hold a list of waivers, [[waiver]] in TOML, and nothing else")
    waivers: dict[str, Waiver] = {}
    for number, entry in enumerate(entries, 1):
        waiver = _waiver(entry, f"waiver {number} in {path}")
        if waiver.id in waivers:
            raise SuiteError(f"waiver {number} in {path} repeats the id {waiver.id!r}")
        waivers[waiver.id] = waiver
    return waivers


def _waiver(entry: Any, where: str) -> Waiver:
    names = {f.name for f in fields(Waiver)}
    if not isinstance(entry, Mapping) or set(entry) != names:
        raise SuiteError(f"{where} has {sorted(entry) if isinstance(entry, Mapping) else entry!r}; expected {names}")
    expiry = entry["expiry"]
    if isinstance(expiry, str):
        try:
            expiry = date.fromisoformat(expiry)
        except ValueError as error:
            raise SuiteError(f"{where}: expiry is {expiry!r}; expected a day as YYYY-MM-DD") from error
    texts = {name: entry[name] for name in ("id", "reason", "link")}
    if any(not isinstance(t, str) or not t.strip() for t in texts.values()) or type(expiry) is not date:
        raise SuiteError(f"{where}: id, reason and link must be texts that say something, and expiry a day")
    if expiry < date.today():
        raise SuiteError(
            f"{where}: {texts['id']} expired on {expiry}; mend the check, or renew the waiver with a reason"
        )
    return Waiver(**texts, expiry=expiry)


def check_known(waivers: Iterable[str], known: Iterable[str]) -> None:
    """Raises SuiteError for a waiver of a check that there is not."""
    unknown = sorted(set(waivers) - set(known))
    if unknown:
        raise SuiteError(f"the waivers name {unknown[0]!r}, which is no check; take ids from report.json")
