"""The ops of the contract on Triton kernels; products with plain weights are torch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from anychip_sdk.contract import Activation, Batch, Communicator, MoESpec, Sampled
from anychip_sdk.kits.torch import TorchOps
from anychip_sdk.kits.torch.weights import Weight
from anychip_sdk.kits.triton.attention import TritonAttention
from anychip_sdk.kits.triton.kernels.activation import gated_activation
from anychip_sdk.kits.triton.kernels.embedding import embedding
from anychip_sdk.kits.triton.kernels.norm import rms_norm
from anychip_sdk.kits.triton.launch import Launcher
from anychip_sdk.kits.triton.moe import experts
from anychip_sdk.kits.triton.sampling import sample_rows
from anychip_sdk.kits.triton.tiles import Tiles

_KERNEL = "the SDK's Triton kernel"
_ON_DEVICE = "the SDK's Triton kernels; what they do is planned on the device"
_SMALL = "torch's own kernels: small, and seldom called"


def adopted(products: str) -> Mapping[str, str]:
    """For `Ops.adopted` of a platform that takes this kit whole. products: whose kernels torch's products are."""
    return {
        **dict.fromkeys(("embedding", "rms_norm", "add_rms_norm", "gated_activation", "sample"), _KERNEL),
        **dict.fromkeys(("attention.write", "attention.prepare", "allocator.copy_pages"), _KERNEL),
        **dict.fromkeys((f"attention.{name}" for name in ("plan", "begin", "attend", "attend_with_sinks")), _ON_DEVICE),
        "moe": f"the SDK's Triton kernels; the router's product is {products}, the sort of its choices torch's",
        **dict.fromkeys(("linear", "linear_split", "logits"), f"torch's products ({products})"),
        **dict.fromkeys(("take", "zeros_like", "rope_angles", "feed"), _SMALL),
        "rope": "torch's own kernels; attention turns q and k in its own",
        "attention.supports": "the kit's limits",
        **dict.fromkeys(("allocator.memory", "allocator.peak", "allocator.layout"), "torch's"),
        **dict.fromkeys(("allocator.allocate", "allocator.free"), "torch's"),
    }


class TritonOps(TorchOps):
    def __init__(self, communicator: Communicator, launch: Launcher, tiles: Tiles) -> None:
        super().__init__(communicator)
        self.attention = TritonAttention(launch, tiles)
        self._launch, self._tiles = launch, tiles

    def embedding(self, ids: Tensor, w: Weight, scale: float = 1.0) -> Tensor:
        return embedding(self._launch, ids, w.tensor, scale)

    def rms_norm(self, x: Tensor, w: Weight, eps: float) -> Tensor:
        return rms_norm(self._launch, x, None, w.tensor, eps)[0]

    def add_rms_norm(self, x: Tensor, residual: Tensor, w: Weight, eps: float) -> tuple[Tensor, Tensor]:
        y, total = rms_norm(self._launch, x, residual, w.tensor, eps)
        assert total is not None
        return y, total

    def gated_activation(self, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
        return gated_activation(self._launch, gate, up, kind)

    def moe(self, x: Tensor, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch) -> Tensor:
        scores = self._matmul(x, router)
        y = experts(self._launch, self._tiles, x, scores, gate_up, down, spec, batch.counts)
        return self._communicator.all_reduce(y) if down.summed else y

    def sample(self, logits: Tensor, batch: Batch, state: Any) -> tuple[Sampled, Any]:
        return sample_rows(self._launch, logits, batch, state.last_token), state
