from __future__ import annotations

import sys
from pathlib import Path

# The measuring scripts belong to no distribution.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
