"""The pluggy hooks through which plugins are found (entry-point group `anychip.platforms`)."""

from __future__ import annotations

import pluggy

from anychip_sdk.contract.platform import Manifest

PROJECT = "anychip"
ENTRY_POINT_GROUP = "anychip.platforms"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def anychip_platform() -> Manifest:  # type: ignore[empty-body]
    """Returns the plugin's manifest. The module it stands in must import nothing heavy."""
