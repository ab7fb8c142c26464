"""The contract in JAX, for any JAX backend: a vendor subclasses `JaxDevice` and overrides what its chip does better.
Every op is traceable, and a step is one compiled program."""

from __future__ import annotations

from anychip_sdk.kits.jax.allocator import JaxAllocator
from anychip_sdk.kits.jax.attention import JaxAttention
from anychip_sdk.kits.jax.buckets import Buckets
from anychip_sdk.kits.jax.device import JaxDevice
from anychip_sdk.kits.jax.kept import Kept
from anychip_sdk.kits.jax.ops import JaxOps
from anychip_sdk.kits.jax.ranks import Ranks

__all__ = ["Buckets", "JaxAllocator", "JaxAttention", "JaxDevice", "JaxOps", "Kept", "Ranks"]
