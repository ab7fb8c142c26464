"""A checkpoint on disk: where it is, its config, and its tensors, read slice by slice."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anychip.errors import ModelError
from anychip.loading import hub
from anychip.loading.config import read_json_object
from anychip.loading.finite import check_finite
from anychip.loading.shards import WEIGHT_DTYPES, Maps, TensorInfo, are_there, find_tensors

DEMO: Final = "demo"


def resolve_model(model: str | os.PathLike[str], revision: str | None = None, *, weights: bool = True) -> Path:
    """The local directory of a model, downloaded first if need be.

    Args:
        model: a directory, the word "demo" (the small model that comes with anychip; a directory of that name is
            "./demo"), or a hub id such as "org/name". A directory wins over a hub id of the same name.
        revision: branch, tag or commit of a hub id; an error with anything else.
        weights: whether they are to be downloaded too.

    Raises:
        ModelError: none of the three, or the download failed.
    """
    text = os.fspath(model)
    directory = Path(os.path.expanduser(text))
    is_demo = model == DEMO
    if not is_demo and not directory.exists() and isinstance(model, str) and hub.is_repo_id(model):
        return hub.fetch(model, revision, weights=weights)
    if revision is not None:
        raise ModelError(f"revision {revision!r} was given, but {text!r} is no hub id; leave the revision out")
    if is_demo:
        directory = Path(str(resources.files("anychip"))) / DEMO
        if not directory.is_dir():
            raise ModelError("the demo model is missing from this installation; install anychip again")
        return directory
    if text and directory.is_dir():
        return directory
    if text and directory.exists():
        raise ModelError(f"{text!r} is a file; give the directory that holds config.json and the weights")
    raise ModelError(
        f"no such directory: {text!r}; give a checkpoint directory, a hub id of the form org/name, or {DEMO!r}"
    )


def open_checkpoint(model: str | os.PathLike[str], *, revision: str | None = None, weights: bool = True) -> Checkpoint:
    """Find a model (see resolve_model), read its config and check the headers of its weight files.

    Args:
        weights: False downloads none, and is content with config.json where none, or not all, are there; see
            Checkpoint.has_weights.

    Raises:
        ModelError: the model is not found, config.json or a weight file is missing, or one of them is damaged.
    """
    path = resolve_model(model, revision, weights=weights)
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json; give the directory of a checkpoint in Hugging Face format")
    generation = path / "generation_config.json"
    return Checkpoint(
        path,
        name=_display_name(model, path),
        config=read_json_object(path / "config.json"),
        generation_config=read_json_object(generation) if generation.exists() else {},
        tensors=find_tensors(path) if weights or are_there(path) else None,
    )


class Checkpoint:
    """An open checkpoint. Close it, or use it in a `with` block; arrays that were read stay valid after that.

    Attributes:
        path: its directory.
        name: how to call it: the hub id, "demo", or the directory's name.
        config: config.json.
        generation_config: generation_config.json; empty if there is none.
        has_weights: whether the weights are there; else there is config.json alone.
        tensors: name -> shape, dtype and file of each tensor.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        generation_config: Mapping[str, Any],
        tensors: Mapping[str, TensorInfo] | None,
    ) -> None:
        """tensors: None where the weights are not there."""
        self.path = path
        self.name = name
        self.config: Mapping[str, Any] = MappingProxyType(dict(config))
        self.generation_config: Mapping[str, Any] = MappingProxyType(dict(generation_config))
        self.has_weights = tensors is not None
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(dict(tensors or {}))
        self._maps: Maps | None = Maps()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each tensor."""
        return {name: info.shape for name, info in self.tensors.items()}

    def read(self, name: str, index: tuple[slice, ...] = (), *, check: bool = True) -> NDArray[Any]:
        """A tensor, or a block of it: a read-only view of the file in the stored dtype; nothing else is read.

        Args:
            name: the tensor.
            index: one slice of step 1 for each leading axis; the axes that follow are taken whole.
            check: look for NaN and infinity (see check_finite).

        Returns:
            float32, float16 or ml_dtypes.bfloat16. A view, except that data which is not aligned in the file is copied.

        Raises:
            ModelError: unknown tensor, a dtype that no weight may have, an index outside the tensor, or a value that
                is not finite.
        """
        if self._maps is None:
            raise ModelError(f"checkpoint {self.name} is closed; open it again to read {name!r}")
        if not self.has_weights:
            raise ModelError(f"the weights of {self.name} are not here; download them to read {name!r}")
        info = self.tensors.get(name)
        if info is None:
            raise ModelError(self._unknown(name))
        if info.dtype not in WEIGHT_DTYPES:
            raise ModelError(
                f"tensor {name!r} in {info.file} is {info.dtype}, expected one of {', '.join(WEIGHT_DTYPES)}; "
                "convert the checkpoint to one of these (a quantized one: use its original)"
            )
        bounds = _bounds(name, info, index)
        array = self._maps.view(info)[tuple(slice(start, stop) for start, stop in bounds)]
        if sys.byteorder == "big":  # the format is little-endian
            array = array.byteswap()
        if check:
            check_finite(array, name, [start for start, _ in bounds])
        return np.require(array, requirements="A")

    def close(self) -> None:
        """Let go of the files. May be called twice."""
        if self._maps is not None:
            self._maps.close()
            self._maps = None

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unknown(self, name: str) -> str:
        nearest = difflib.get_close_matches(name, self.tensors, n=3, cutoff=0.0)
        return (
            f"checkpoint {self.name} has no tensor {name!r}; the nearest names are {', '.join(map(repr, nearest))}: "
            "check that the weights belong to this config.json"
        )


def _bounds(name: str, info: TensorInfo, index: tuple[slice, ...]) -> list[tuple[int, int]]:
    """(start, stop) for each axis of `index`. Strict, because a slice cut short would be a wrong weight."""
    if len(index) > len(info.shape):
        raise ModelError(f"tensor {name!r} has shape {list(info.shape)}, but {len(index)} of its axes were asked for")
    bounds = []
    for axis, (part, size) in enumerate(zip(index, info.shape, strict=False)):
        start = 0 if part.start is None else part.start
        stop = size if part.stop is None else part.stop
        if part.step not in (None, 1) or not 0 <= start <= stop <= size:
            raise ModelError(
                f"tensor {name!r} has shape {list(info.shape)}: {start}:{stop} does not fit axis {axis}; "
                "check the sizes in config.json"
            )
        bounds.append((start, stop))
    return bounds


def _display_name(model: str | os.PathLike[str], path: Path) -> str:
    text = os.fspath(model)
    if model == DEMO or hub.is_snapshot_of(path, text):
        return text
    return path.resolve().name
