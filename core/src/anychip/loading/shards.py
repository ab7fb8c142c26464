"""Safetensors files of a checkpoint: which there are, what they hold, and their memory maps.

Format: https://github.com/huggingface/safetensors (8 bytes of little-endian header length, a JSON header, the data).
The safetensors library checks the header: it rejects bad JSON, offsets that overlap, leave holes or leave the file,
and sizes that do not match dtype and shape. The data is then mapped here, because the library's own reads copy every
tensor, while a map gives views that cost nothing until they are touched.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from anychip.errors import ModelError
from anychip.loading.config import read_json_object

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"

WEIGHT_DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# Names in the format -> names used everywhere else. Dtypes that are not listed keep their name, in lower case.
_DTYPE_NAMES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as its file describes it."""

    shape: tuple[int, ...]
    dtype: str  # "bfloat16", "float16", "float32", or one that no weight may have, such as "int8"
    file: Path
    nbytes: int
    offset: int  # of the first byte, from the start of the file


def find_tensors(directory: Path) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint in `directory`: of model.safetensors, or of the shards its index lists.

    Raises:
        ModelError: no safetensors there, a missing or damaged file, or an index that does not match its shards.
    """
    if (directory / SINGLE).is_file():
        return read_header(directory / SINGLE)
    if not (directory / INDEX).is_file():
        raise _no_safetensors(directory)
    shards: dict[str, dict[str, TensorInfo]] = {}
    tensors = {}
    for name, shard in _weight_map(directory / INDEX).items():
        if shard not in shards:
            shards[shard] = _read_shard(directory, shard)
        if name not in shards[shard]:
            raise ModelError(
                f"{directory / INDEX} says that {shard} holds tensor {name!r}, but it does not; "
                "the files are of different versions: download the checkpoint again"
            )
        tensors[name] = shards[shard][name]
    return tensors


def are_there(directory: Path) -> bool:
    """Whether a checkpoint's weights are in `directory`, all of them. Files of other formats count, since find_tensors
    says what is wrong with them. Raises ModelError for an index that is damaged."""
    if (directory / SINGLE).is_file():
        return True
    if (directory / INDEX).is_file():
        return all((directory / shard).is_file() for shard in _weight_map(directory / INDEX).values())
    return bool(_weight_files(directory))


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file. Raises ModelError if it cannot be read, is cut short or is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"), path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({_one_line(error)}); download the file again"
        ) from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        dtype = _DTYPE_NAMES.get(entry["dtype"], entry["dtype"].lower())
        tensors[name] = TensorInfo(tuple(entry["shape"]), dtype, path, end - start, 8 + length + start)
    return tensors


class Maps:
    """Read-only memory maps of files, opened when first asked for."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def view(self, info: TensorInfo) -> NDArray[Any]:
        """The whole tensor as a read-only view of the file. `info.dtype` must be one of WEIGHT_DTYPES."""
        dtype = WEIGHT_DTYPES[info.dtype]
        if info.nbytes == 0:
            return np.empty(info.shape, dtype)
        if info.file not in self._maps:
            self._maps[info.file] = _map(info.file)
        mapped = self._maps[info.file]
        if info.offset + info.nbytes > len(mapped):
            raise ModelError(f"{info.file} has shrunk since it was opened; leave it in place while the model loads")
        return np.frombuffer(mapped, dtype, info.nbytes // dtype.itemsize, info.offset).reshape(info.shape)

    def close(self) -> None:
        """Let go of the maps. One that an array still looks into lives until that array is gone."""
        self._maps.clear()


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot map {path} into memory ({_one_line(error)}); check the file") from error


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard file name, checked."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no 'weight_map' object; download the checkpoint again")
    for name, shard in weight_map.items():
        # A shard lies beside its index: no other directory may be reached from a downloaded file.
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ModelError(
                f"{index}: tensor {name!r} is in {shard!r}, expected the name of a .safetensors file beside the index"
            )
    return weight_map


def _read_shard(directory: Path, shard: str) -> dict[str, TensorInfo]:
    if not (directory / shard).is_file():
        raise ModelError(f"{directory / INDEX} names {shard}, which is missing; download it into {directory}")
    return read_header(directory / shard)


def _weight_files(directory: Path) -> list[str]:
    """Names of files that may hold weights, in any format."""
    names = sorted(entry.name for entry in directory.iterdir())
    return [name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf"))]


def _no_safetensors(directory: Path) -> ModelError:
    others = _weight_files(directory)
    if any(name.endswith((".bin", ".pt", ".pth")) for name in others):
        return ModelError(
            f"{directory} has pickled weights only ({others[0]}); anychip reads safetensors, never pickles: convert it "
            "with transformers, AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)"
        )
    found = f" (found {', '.join(others[:3])})" if others else ""
    return ModelError(
        f"{directory} has neither {SINGLE} nor {INDEX}{found}; download the weights, or give another directory"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
