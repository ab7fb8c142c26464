"""Names of page contents: a keyed hash chain, so that equal names mean equal token prefixes."""

from __future__ import annotations

import hashlib
import secrets

import numpy as np


class PageNamer:
    """SHA-256 over (secret, tenant's salt, all tokens up to the page's end), chained page by page.

    The secret is drawn per process and the salt is the tenant's, so that nobody can build a prompt that collides
    with another's, nor learn from the cache whether another tenant sent a prompt.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._secret = secrets.token_bytes(32)

    def extend(self, names: list[bytes], tokens: np.ndarray, salt: str) -> None:
        """Appends the names of further full pages, in place. tokens: int32, from the first page without a name on."""
        size = self._page_size
        parent = names[-1] if names else hashlib.sha256(self._secret + salt.encode()).digest()
        for start in range(0, len(tokens) - size + 1, size):
            digest = hashlib.sha256(self._secret)
            digest.update(parent)
            digest.update(tokens[start : start + size].tobytes())
            parent = digest.digest()
            names.append(parent)
