"""A server in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def server(*command: str, deadline: float = 120) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python COMMAND` and the address it prints. It is killed at the end, or when it does not print it in time."""
    path = os.pathsep.join([str(ROOT / "core/src"), str(ROOT / "plugin_sdk/src"), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    timer = threading.Timer(deadline, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+)\n", line)
        if found is None:
            process.kill()
            raise AssertionError(f"the server said {line!r}, and then: {process.communicate()}")
        timer.cancel()
        yield process, found[1]
    finally:
        timer.cancel()
        process.kill()
        process.communicate()
