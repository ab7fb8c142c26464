"""Greedy tokens beside Transformers' on the same card: equal in float32, and in bfloat16 but for near ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as tf
from anychip import LLM, SamplingParams
from gpu_attention import Say
from gpu_models import prompts

TOKENS = 24
LENGTHS = (1, 15, 16, 17, 64, 200)
SLACK = 4 * 2.0**-8
"""Of the largest logit: what rounding to bfloat16 in every layer may move two tokens' logits apart."""


def make(folder: Path) -> None:
    """A Qwen3 of four layers. Strong random weights, so that near ties are rare."""
    torch.manual_seed(0)
    config = tf.Qwen3Config(
        hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2,
        head_dim=64, vocab_size=2048, tie_word_embeddings=False, initializer_range=0.15, max_position_embeddings=512,
    )  # fmt: skip
    tf.Qwen3ForCausalLM(config).bfloat16().save_pretrained(folder)  # so that both dtypes have the same weights


def judge(model: Any, prompt: list[int], mine: list[int], exact: bool) -> str:
    """equal, near tie or different: by the first token that is not the most likely one to Transformers."""
    ids = torch.tensor([prompt + mine], device=model.device)
    logits = model(ids).logits[0, len(prompt) - 1 : -1].float()
    short = logits.max(dim=-1).values - logits.gather(1, torch.tensor(mine, device=model.device)[:, None])[:, 0]
    missed = short.nonzero()
    if not len(missed):
        return "equal"
    slack = 1e-4 if exact else SLACK * logits.abs().max().item()
    return "near tie" if bool(short[missed[0]] <= slack) else "different"


@torch.inference_mode()
def run(device: str, place: torch.device, folder: Path, say: Say) -> None:
    """Counts of prompts."""
    make(folder)
    asked = [prompts(1, 2048, n)[0] for n in LENGTHS]
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    for dtype in ("float32", "bfloat16"):
        model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(place)
        with LLM(
            folder, device, skip_tokenizer=True, dtype=dtype, max_num_seqs=8, max_model_len=256, kv_pages=256
        ) as llm:
            outputs = [list(o.outputs[0].token_ids) for o in llm.generate(asked, params)]
        verdicts = [judge(model, p, mine, dtype == "float32") for p, mine in zip(asked, outputs, strict=True)]
        for name in ("equal", "near tie", "different"):
            say(f"{dtype}, {name}", verdicts.count(name))
