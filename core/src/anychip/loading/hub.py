"""Models from the Hugging Face hub, through its own library."""

from __future__ import annotations

import errno
import re
from pathlib import Path

from anychip.errors import ModelError

WEIGHTS = "*.safetensors"
PATTERNS = ("*.json", WEIGHTS, "*.jinja")
"""All that is ever downloaded: no code and no pickles."""
UNUSED = ("*/*", "consolidated*.safetensors")
"""And of these not what no checkpoint needs: other formats in folders, and a second copy of the weights."""

_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def is_repo_id(text: str) -> bool:
    """Whether it has the form org/name."""
    return _ID.fullmatch(text) is not None and ".." not in text and not text.startswith(".")


def is_snapshot_of(path: Path, text: str) -> bool:
    """Whether `path` is where the hub's library keeps a revision of the repository `text`."""
    return is_repo_id(text) and f"models--{text.replace('/', '--')}" in path.parts


def fetch(repo_id: str, revision: str | None, *, weights: bool = True) -> Path:
    """Downloads what is missing, or all of it but the weights, and returns the local directory. Honours HF_ENDPOINT,
    HF_HUB_OFFLINE and HF_TOKEN.

    Raises ModelError: no such repository or revision, gated, offline, no network, full disk."""
    from huggingface_hub import errors, snapshot_download

    wanted = [pattern for pattern in PATTERNS if weights or pattern != WEIGHTS]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted, ignore_patterns=list(UNUSED)))
    except errors.GatedRepoError as error:
        raise ModelError(f"{repo_id} is gated: accept its licence on the hub, then set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repo_id} has no revision {revision!r}; give a branch, tag or commit of it") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"no directory and no hub repository {repo_id!r}; check the spelling, or set HF_TOKEN if it is private"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{repo_id} is not in the local cache and the hub cannot be reached; check the network (HF_HUB_OFFLINE), "
            "or give a checkpoint directory"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelError(f"no space is left on the disk for {repo_id}; free some, or set HF_HOME") from error
        raise ModelError(
            f"{repo_id} cannot be downloaded: {_first_line(error)}; check the network and HF_ENDPOINT"
        ) from error
    except Exception as error:  # the library's HTTP client has errors of its own, different in every version
        raise ModelError(
            f"{repo_id} cannot be downloaded: {_first_line(error)}; check the network and HF_ENDPOINT"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
