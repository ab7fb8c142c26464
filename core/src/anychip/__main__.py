"""`python -m anychip`."""

from __future__ import annotations

import sys

from anychip.cli import main

sys.exit(main())
