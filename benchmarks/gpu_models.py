"""Tokens a second on the shapes of known models, with random weights, beside Transformers and beside the roofline."""

from __future__ import annotations

import gc
import json
import struct
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import transformers as tf
from anychip import LLM, SamplingParams
from gpu_attention import copy_bandwidth

PROMPT, SHORT, LONG = 128, 8, 40
"""Tokens. The time between two lengths of output is that of decoding alone."""

_LLAMA = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip
_QWEN = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 8192}
SHAPES: dict[str, Callable[[], Any]] = {
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


def prompts(count: int, vocabulary: int, length: int = PROMPT) -> list[list[int]]:
    return np.random.default_rng(count).integers(0, vocabulary, (count, length)).tolist()  # type: ignore[no-any-return]


def decoding(generate: Callable[[int], Any], batch: int) -> float:
    """Tokens a second while all of a batch decode; NaN where the machine is too busy to tell. generate: of that many
    tokens each."""
    generate(LONG)  # kernels are compiled and steps recorded
    took = {SHORT: inf, LONG: inf}
    for count in (SHORT, LONG) * 2:
        start = perf_counter()
        generate(count)
        took[count] = min(took[count], perf_counter() - start)
    return batch * (LONG - SHORT) / (took[LONG] - took[SHORT]) if took[LONG] > took[SHORT] else nan


def ours(llm: LLM, batch: int) -> float:
    def generate(count: int) -> None:
        llm.reset_prefix_cache()
        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)
        llm.generate(prompts(batch, llm.vocab_size), params)

    return decoding(generate, batch)


def theirs(model: Any, batch: int) -> float:
    ids = torch.tensor(prompts(batch, model.config.vocab_size), device=model.device)

    def generate(count: int) -> None:
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip

    return decoding(generate, batch)


def step_bytes(config: Any, batch: int) -> int:
    """Bytes that a decoding step must read: every weight but the embedding's table, and K and V so far."""
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(config)
    weights = sum(p.numel() for p in model.parameters())  # a tied table counts once, as the head
    if not config.tie_word_embeddings:
        weights -= config.vocab_size * config.hidden_size
    a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return int(2 * (weights + batch * (PROMPT + (SHORT + LONG) // 2) * a_token))


def serving(llm: LLM, count: int = 256) -> float:
    """Tokens out a second of requests of 100 to 1024 tokens in and out, all there from the start."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 1025, (count, 2)).tolist()
    asked = [rng.integers(0, llm.vocab_size, n).tolist() for n, _ in sizes]
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in sizes]
    start = perf_counter()
    llm.generate(asked, params)
    return sum(n for _, n in sizes) / (perf_counter() - start)


def run(device: str, place: torch.device, name: str, folder: Path, small: bool) -> dict[str, float]:
    """One shape, at several batches; with the first one, a whole load of requests too."""
    config = SHAPES[name]()
    write_checkpoint(config, folder)
    batches = (1, 2) if small else (1, 8, 64, 256)
    bandwidth = copy_bandwidth(place, (16 if small else 1024) * 2**20)
    found = {}
    start = perf_counter()
    with LLM(folder, device, skip_tokenizer=True, dtype="bfloat16", max_num_seqs=max(batches),
             max_model_len=256 if small else 2304, memory_fraction=0.8) as llm:  # fmt: skip
        found[f"{name}, load, s"] = perf_counter() - start
        for batch in batches:
            rate = ours(llm, batch)
            found[f"{name} x {batch}, tokens/s"] = rate
            found[f"{name} x {batch}, of the roofline"] = step_bytes(config, batch) * rate / batch / bandwidth
        if name == "Qwen3-0.6B":
            found[f"{name}, 256 requests of 100 to 1024 in and out, tokens/s"] = serving(llm)
    del llm
    gc.collect()
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(place)
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        for batch in batches[:3]:
            found[f"{name} x {batch}, Transformers, tokens/s"] = theirs(model, batch)
    return found
