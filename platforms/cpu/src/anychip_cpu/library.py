"""Where the library of kernels lies. The probe asks, so nothing heavy is imported here."""

from __future__ import annotations

import os
from pathlib import Path

import anychip_cpu

LIBRARY = "_kernels.so"

BUILT = "ANYCHIP_CPU_LIBRARY"
"""Environment variable that names another build of the library, with the sanitizers for instance."""


def library_path() -> Path | None:
    """The library, where the platform was installed with a compiler at hand or from a wheel that has it."""
    if os.environ.get(BUILT):
        return Path(os.environ[BUILT])
    # An editable install keeps it apart from the sources, so every place of the package is looked at.
    places = (Path(place) / LIBRARY for place in anychip_cpu.__path__)
    return next((path for path in places if path.is_file()), None)
