from __future__ import annotations

import os

# Collected by test_interpreted.py alone, in a process where Triton was told to interpret before it was imported.
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
