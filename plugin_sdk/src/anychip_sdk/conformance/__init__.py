"""The conformance suite: evidence of how much of the contract a device keeps.

`anychip conformance --device NAME` runs it. The checks are ordinary pytest tests in `areas`, so a vendor may also run
`pytest --pyargs anychip_sdk.conformance --anychip-device NAME`. It needs pytest and hypothesis, which
`anychip[conformance]` brings.
"""

from __future__ import annotations

from anychip_sdk.conformance.version import SUITE_VERSION

__all__ = ["SUITE_VERSION"]
