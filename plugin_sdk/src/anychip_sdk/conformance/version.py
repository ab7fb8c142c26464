"""The version of the suite. A level is awarded by a version, and checks say since which one they count."""

from __future__ import annotations

from anychip_sdk.contract import Version

SUITE_VERSION = Version(1, 4)
"""Major: a check was made stricter. Minor: checks were added."""
