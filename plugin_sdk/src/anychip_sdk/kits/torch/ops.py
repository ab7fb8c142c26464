"""The ops of the contract in torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from anychip_sdk.contract import Activation, Batch, Communicator, ContractError, MoESpec, Ops, Sampled
from anychip_sdk.kits.torch import moe
from anychip_sdk.kits.torch.attention import TorchAttention
from anychip_sdk.kits.torch.rope import angles_of, rms_norm, rotate
from anychip_sdk.kits.torch.sampling import sample_rows
from anychip_sdk.kits.torch.weights import Weight


class TorchOps(Ops):
    """A subclass that multiplies better overrides `_matmul`; everything that holds a linear layer goes through it."""

    def __init__(self, communicator: Communicator) -> None:
        self.attention = TorchAttention()
        self._communicator = communicator

    def _matmul(self, x: Tensor, w: Weight) -> Tensor:
        """x: [T, I] -> [T, O], bias included."""
        return functional.linear(x, w.tensor, w.bias)

    def embedding(self, ids: Tensor, w: Weight, scale: float = 1.0) -> Tensor:
        x = functional.embedding(ids, w.tensor)
        return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype, device=x.device)

    def take(self, x: Tensor, rows: Tensor) -> Tensor:
        return x.index_select(0, rows)

    def zeros_like(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def linear(self, x: Tensor, w: Weight) -> Tensor:
        if w.padded:
            raise ContractError(
                f"{w.vocabulary} outputs do not divide by {self._communicator.size} ranks; only logits can"
            )
        y = self._matmul(x, w)
        return self._communicator.all_reduce(y) if w.summed else y

    def linear_split(self, x: Tensor, w: Weight) -> tuple[Tensor, ...]:
        return torch.split_with_sizes(self._matmul(x, w), w.sizes, -1)  # less work on the host than Tensor.split

    def rms_norm(self, x: Tensor, w: Weight, eps: float) -> Tensor:
        return rms_norm(x, w.tensor, eps)

    def rope_angles(self, positions: Tensor, w: Weight) -> tuple[Tensor, Tensor]:
        return angles_of(positions, w.tensor)

    def rope(self, x: Tensor, angles: Any) -> Tensor:
        return rotate(x, angles)

    def gated_activation(self, gate: Tensor, up: Tensor, kind: Activation) -> Tensor:
        return moe.activate(gate, up, kind)

    def moe(self, x: Tensor, router: Weight, gate_up: Weight, down: Weight, spec: MoESpec, batch: Batch) -> Tensor:
        y = moe.experts(x, self._matmul(x, router), gate_up, down, spec)
        return self._communicator.all_reduce(y) if down.summed else y

    def logits(self, x: Tensor, w: Weight, softcap: float | None = None) -> Tensor:
        y = self._matmul(x, w).float()
        if w.vocabulary is not None:  # sharded over ranks
            y = self._communicator.all_gather(y, 1)[:, : w.vocabulary]
        return y if softcap is None else softcap * torch.tanh(y / softcap)

    def feed(self, batch: Batch, state: Any) -> Tensor:
        return torch.where(batch.feed == 1, state.last_token[batch.token_slot.long()], batch.token_ids)

    def sample(self, logits: Tensor, batch: Batch, state: Any) -> tuple[Sampled, Any]:
        sampled = sample_rows(logits, batch)
        state.last_token[batch.row_slot.long()] = sampled.tokens.clamp_min(0)
        return sampled, state
