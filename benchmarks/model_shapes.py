"""Checkpoints in the shapes of known models, with random weights: nothing is downloaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

_LLAMA = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip
_SMOL = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
_QWEN = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 8192}
SHAPES: dict[str, Callable[[], Any]] = {
    "SmolLM2-135M": lambda: tf.LlamaConfig(
        **_SMOL, max_position_embeddings=8192, rope_theta=100000.0, rms_norm_eps=1e-5, eos_token_id=None
    ),
    "Qwen3-0.6B": lambda: tf.Qwen3Config(
        **_QWEN, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        tie_word_embeddings=True,
    ),
    "Llama-3.2-1B": lambda: tf.LlamaConfig(**_LLAMA, max_position_embeddings=8192, eos_token_id=None),
    "Qwen3-8B": lambda: tf.Qwen3Config(
        **_QWEN, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        tie_word_embeddings=False,
    ),
    "tiny": lambda: tf.Qwen3Config(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=512, tie_word_embeddings=True, max_position_embeddings=512,
    ),
}  # fmt: skip


def write_checkpoint(config: Any, folder: Path) -> None:
    """Random bfloat16 weights, one block of them over and over (writing is all that takes time), and norms of one."""
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(config)
    tensors = {
        n: t for n, t in model.state_dict().items() if not (config.tie_word_embeddings and n == "lm_head.weight")
    }
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    header: dict[str, Any] = {}
    start = 0
    for name, tensor in tensors.items():
        size = 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, start + size]}
        start += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    block = (torch.randn(2**24, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16().view(torch.int16)
    random, ones = block.numpy().tobytes(), torch.ones(2**16).bfloat16().view(torch.int16).numpy().tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, tensor in tensors.items():
            left, source = 2 * tensor.numel(), ones if "norm" in name else random
            while left:
                left -= file.write(source[: min(left, len(source))])
