"""No NaN or infinity gets into a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from anychip.errors import ModelError

# A value is NaN or infinite iff its exponent bits are all ones. With the sign bit cleared, that is one unsigned
# comparison with the pattern of +infinity.
_INFINITY_BITS: Final[dict[np.dtype[Any], np.unsignedinteger[Any]]] = {
    np.dtype(np.float32): np.uint32(0x7F80_0000),
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
}

# Elements tested at a time: the scratch buffer stays in the processor's cache.
_CHUNK: Final = 1 << 16


def check_finite(array: NDArray[Any], name: str, origin: Sequence[int] = ()) -> None:
    """Raise ModelError, naming the tensor and the first bad index, if `array` holds a NaN or an infinity.

    Args:
        array: any shape; float32, float16 or bfloat16.
        name: the tensor's name, for the message.
        origin: where `array` begins inside the tensor, per leading axis; absent axes begin at 0.
    """
    infinity = _INFINITY_BITS[array.dtype]
    magnitude = infinity.dtype.type(np.iinfo(infinity.dtype).max >> 1)  # every bit but the sign
    # A reshape of a contiguous array is a view; `flat` copies only the chunk it is asked for.
    flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
    scratch = np.empty(min(_CHUNK, array.size), infinity.dtype)
    for start in range(0, array.size, _CHUNK):
        chunk = flat[start : start + _CHUNK].view(infinity.dtype)
        masked = np.bitwise_and(chunk, magnitude, out=scratch[: len(chunk)])
        if masked.max() >= infinity:
            position = start + int(np.argmax(masked >= infinity))
            local = np.unravel_index(position, array.shape)
            starts = [*origin, *[0] * (array.ndim - len(origin))]
            index = [int(i) + first for i, first in zip(local, starts, strict=True)]
            raise ModelError(
                f"tensor {name!r} holds {float(array[local])} at index {index}, expected finite numbers only; "
                "the checkpoint is damaged or was saved after a failed training run: get a good copy"
            )
