"""The numpy kit with its products in JAX: a start for chips that JAX knows, until ops and pages stay on the chip."""

from __future__ import annotations

import jax  # type: ignore[import-not-found]
import numpy as np

from anychip_sdk.kits.numpy import NumpyOps, Weight


class JaxOnHostOps(NumpyOps):
    """float32 products run on JAX's default device; rows and weights are copied to it and back in every call. All
    else, and float64, which JAX rounds to float32 unless told otherwise, is numpy's."""

    def linear_split(self, x: np.ndarray, w: Weight) -> tuple[np.ndarray, ...]:
        if x.dtype != np.float32:
            return super().linear_split(x, w)
        products = [np.asarray(jax.numpy.matmul(x, part.T, precision="highest")) for part in w.parts]
        return tuple(y + b for y, b in zip(products, w.bias, strict=True)) if w.bias else tuple(products)
