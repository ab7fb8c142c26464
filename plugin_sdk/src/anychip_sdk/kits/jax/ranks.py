"""The chips that one process drives: tensors are split among them or stand on each of them (Megatron-LM,
arXiv:1909.08053)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import jax
import numpy as np
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

AXIS = "ranks"
"""Name of the one axis of the mesh."""


@dataclass(frozen=True)
class Ranks:
    """A row of chips; one chip is a row of one."""

    mesh: Mesh

    @classmethod
    def of(cls, devices: Sequence[jax.Device]) -> Ranks:
        return cls(Mesh(np.array(devices), (AXIS,)))

    @classmethod
    def sizes(cls, count: int) -> Ranks:
        """Chips that are not here, and that no compiler knows: arrays over them can be described, and that is all."""
        return cls(cast(Mesh, AbstractMesh((count,), (AXIS,))))

    @property
    def size(self) -> int:
        return self.mesh.size

    @property
    def devices(self) -> list[jax.Device]:
        return list(self.mesh.devices.flat)

    @property
    def whole(self) -> NamedSharding:
        """Every chip has all of it."""
        return NamedSharding(self.mesh, PartitionSpec())

    def split(self, axis: int) -> NamedSharding:
        """Each chip has its part of `axis`."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXIS))

    def make(self, wanted: Array | jax.ShapeDtypeStruct, part: Callable[[int, int], np.ndarray]) -> Array:
        """An array as `wanted`; part(rank, size) is what chip `rank` of `size` gets. No more than one part is on the
        host. Parts must be nobody else's: on the host JAX keeps an array as it is."""
        assert isinstance(wanted.sharding, NamedSharding)
        if self.size == 1 or not any(wanted.sharding.spec):
            return jax.device_put(part(0, 1), wanted.sharding)
        parts = [jax.device_put(part(i, self.size), device) for i, device in enumerate(self.devices)]
        return jax.make_array_from_single_device_arrays(wanted.shape, wanted.sharding, parts)


def stacked(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """That of arrays stacked along a new first axis."""
    if not isinstance(sharding, NamedSharding):
        return sharding  # of one device: it says nothing of axes
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
