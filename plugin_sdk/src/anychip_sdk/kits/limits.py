"""What every kit's attention refuses."""

from __future__ import annotations

from anychip_sdk.contract import AttentionSpec, NotSupported

MAX_HEAD_DIM = 256
"""What `Capabilities` claims unless told otherwise."""


def refuse_wide_heads(spec: AttentionSpec) -> None:
    """Raises NotSupported for heads wider than the kits claim."""
    if spec.head_dim > MAX_HEAD_DIM:
        raise NotSupported(f"head_dim is {spec.head_dim}; attention takes heads of at most {MAX_HEAD_DIM}")
