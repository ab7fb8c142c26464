"""A server with a fake engine, for tests that need a process of its own: `python fake_server.py [HANG_AFTER]`."""

from __future__ import annotations

import sys

from anychip.serving import server
from fake_engine import FakeEngine

if __name__ == "__main__":
    engine = FakeEngine(hang_after=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    server.GRACE = 60  # no test waits for its end, however busy the machine
    server.serve(lambda: engine, port=0)
    print(f"closed: {engine.closed}, cancelled: {len(engine.cancelled)}")
