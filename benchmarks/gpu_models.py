"""Tokens a second on the shapes of known models, with random weights, beside Transformers and beside the roofline."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import transformers as tf
from anychip import LLM, SamplingParams
from gpu_attention import Say, copy_bandwidth
from gpu_idle import idle, watched
from model_shapes import SHAPES, write_checkpoint

PROMPT, SHORT, LONG = 128, 8, 40
"""Tokens. The time between two lengths of output is that of decoding alone."""


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


def greedy(count: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, detokenize=False)


def drawn(count: int) -> SamplingParams:
    return replace(greedy(count), temperature=0.8, top_p=0.9, top_k=50, seed=1)


def ours(llm: LLM, batch: int, spans: list[Any], params: Callable[[int], SamplingParams] = greedy) -> float:
    """spans: of the replays; those of the last run are left in it. params: of so many tokens."""

    def generate(count: int) -> None:
        llm.reset_prefix_cache()
        spans.clear()
        llm.generate(prompts(batch, llm.vocab_size), params(count))

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
    start = perf_counter()
    llm.generate(asked, [greedy(n) for _, n in sizes])
    return sum(n for _, n in sizes) / (perf_counter() - start)


def run(device: str, place: torch.device, name: str, folder: Path, small: bool, say: Say) -> None:
    """One shape, at several batches; with the first one, a whole load of requests too."""
    config = SHAPES[name]()
    write_checkpoint(config, folder)
    batches = (1, 2) if small else (1, 8, 64, 256)
    bandwidth = copy_bandwidth(place, (16 if small else 1024) * 2**20)
    start = perf_counter()
    with watched() as spans, LLM(folder, device, skip_tokenizer=True, dtype="bfloat16", max_num_seqs=max(batches),
                                 max_model_len=256 if small else 2304, memory_fraction=0.8) as llm:  # fmt: skip
        say("load, s", perf_counter() - start)
        for batch in batches:
            rate = ours(llm, batch, spans)
            say(f"x {batch}, tokens/s", rate)
            say(f"x {batch}, of the roofline", step_bytes(config, batch) * rate / batch / bandwidth)
            say(f"x {batch}, idle", idle(spans))
        say("x 1, drawn at random (top_k 50, top_p 0.9), tokens/s", ours(llm, 1, spans, drawn))
        if name == "Qwen3-0.6B":
            say("256 requests of 100 to 1024 in and out, tokens/s", serving(llm))
    del llm
    gc.collect()
    with place:
        model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        for batch in batches:
            say(f"x {batch}, Transformers, tokens/s", theirs(model, batch))
