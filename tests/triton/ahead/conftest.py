from __future__ import annotations

from importlib.util import find_spec

# Triton has no wheels for some machines.
collect_ignore_glob = [] if all(map(find_spec, ("triton", "anychip_cuda", "anychip_rocm"))) else ["test_*.py"]
