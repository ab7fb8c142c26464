"""Writes a Llama or Qwen3 checkpoint as GGUF, without a vocabulary.

    python -m peers.gguf_file MODEL OUT.gguf f16|q8_0

Runs in llama.cpp's environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

KINDS = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
"""Weights of a layer, there and here."""
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def name_of(name: str) -> str:
    """GGUF's name of a weight."""
    stem = name.removesuffix(".weight")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """weight: [heads * D, inputs]. GGUF's llama turns neighbours by an angle, the checkpoint's turns halves: row
    i of a head's first half and row i of its second come to lie side by side."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tensors(path: Path) -> dict[str, NDArray[np.uint16]]:
    """The bits of a safetensors file's bfloat16 weights, mapped."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint16, "r", offset=8 + size)
    return {
        name: data[entry["data_offsets"][0] // 2 : entry["data_offsets"][1] // 2].reshape(entry["shape"])
        for name, entry in header.items()
    }


def write(model: Path, out: Path, kind: gguf.GGMLQuantizationType) -> None:
    config = json.loads((model / "config.json").read_text())
    arch = config["model_type"]
    writer = gguf.GGUFWriter(out, arch)
    describe(writer, config)
    turned = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, bits in tensors(model / "model.safetensors").items():
        weight = (bits.astype(np.uint32) << 16).view(np.float32)
        part = name.split(".")[-2]
        if arch == "llama" and part in turned:
            weight = interleaved(weight, turned[part])
        if weight.ndim == 1:
            writer.add_tensor(name_of(name), weight)
        else:
            writer.add_tensor(name_of(name), gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    theta = (config.get("rope_parameters") or config)["rope_theta"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), KINDS[sys.argv[3]])
