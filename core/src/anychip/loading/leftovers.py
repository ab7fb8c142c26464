"""What a checkpoint holds beyond what its config.json says."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anychip.loading.checkpoint import Checkpoint

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"
_BUFFERS: Final = ("rotary_emb.inv_freq", ".masked_bias")
"""Ends of names of what old checkpoints keep beside their weights: constants that follow from the config."""
_NAMED: Final = 3
_ROWS: Final = 4096

logger = logging.getLogger(__name__)


def has_own_head(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint whose config.json ties the head to the embedding brings another one, which is used then, as
    Transformers does: the weights were trained, a flag may be left over. A warning says so."""
    if not {EMBEDDING, HEAD} <= checkpoint.tensors.keys() or _same_bits(checkpoint):
        return False
    logger.warning(
        "%s has a head, %s, that differs from its embedding: it is used, although tie_word_embeddings in config.json "
        "is true; set that to false",
        checkpoint.name,
        HEAD,
    )
    return True


def _same_bits(checkpoint: Checkpoint) -> bool:
    embedding, head = checkpoint.tensors[EMBEDDING], checkpoint.tensors[HEAD]
    if not embedding.shape or (embedding.shape, embedding.dtype) != (head.shape, head.dtype):
        return False

    def rows(name: str, start: int) -> NDArray[Any]:
        block = (slice(start, min(start + _ROWS, embedding.shape[0])),)
        return checkpoint.read(name, block, check=False).view(np.uint8)

    return all(np.array_equal(rows(EMBEDDING, i), rows(HEAD, i)) for i in range(0, embedding.shape[0], _ROWS))


def name_unused(checkpoint: Checkpoint, used: Iterable[str]) -> None:
    """A warning that names a few of the tensors that the model does not use, if there are any: layers beyond
    num_hidden_layers, or parts that the architecture does not have."""
    left = checkpoint.tensors.keys() - set(used) - {HEAD}
    unused = sorted(name for name in left if not name.endswith(_BUFFERS))
    if unused:
        logger.warning(
            "%s has %d tensors that its config.json has no place for (%s); they are left out: check num_hidden_layers",
            checkpoint.name,
            len(unused),
            ", ".join(unused[:_NAMED]) + (", ..." if len(unused) > _NAMED else ""),
        )
