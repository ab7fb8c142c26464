"""A new plugin package, written from templates: what `anychip plugin new` makes."""

from __future__ import annotations

from anychip_sdk.scaffold.generator import FRAMEWORKS, KINDS, ScaffoldError, Written, check_name, write_plugin

__all__ = ["FRAMEWORKS", "KINDS", "ScaffoldError", "Written", "check_name", "write_plugin"]
