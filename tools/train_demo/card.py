"""Measure a trained demo model on the held-out text, sample from it and write its model card.

    python card.py --model DIR

Everything is measured on the checkpoint as it ships, in bfloat16, through transformers.
"""

from __future__ import annotations

import argparse
import math
import platform
import sysconfig
from pathlib import Path

import torch
from corpus import Unit, units
from safetensors import safe_open
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PROMPTS = (
    "Return a list of",
    "This module provides",
    "def parse_",
    "class Queue:\n",
    "If the file does not exist,",
)
QUESTIONS = ("What does os.path.join do?", "What is a context manager?")
NEW_TOKENS = 96

CARD = """\
---
license: other
license_name: psf-2.0
license_link: LICENSE-PSF.txt
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The anychip demo model

A Llama-architecture language model of {parameters:,} parameters, trained from scratch on the standard library
of Python {python}. It exists so that a fresh install has something real to run: it writes text that looks
like Python's documentation and source code. It knows nothing dependable, and what it says about Python is
often wrong. Do not use it for answers.

## Model

| | |
|---|---|
| Architecture | `LlamaForCausalLM`, {layers} layers, hidden size {hidden}, feed-forward size {ffn} |
| Attention | {heads} query heads, {kv_heads} key and value heads, head size {head_dim}, rotary positions |
| Vocabulary | {vocab} tokens, byte-level BPE trained on the same text; input and output embeddings tied |
| Context | {context} tokens |
| Weights | bfloat16, {weight_mb:.2f} MB |

Chat uses ChatML: `<|im_start|>role`, the text, `<|im_end|>`.

## Training text and licence

The training text is Python {python}'s standard library: the source files, their docstrings as running text,
as manual pages and as short question-and-answer dialogues, the docstrings of some modules written in C, and
the language reference topics that `pydoc` carries. Tests, IDLE, lib2to3, the encodings and data tables are
left out, and so is every file found to carry terms of its own beside Python's licence.

That text is Copyright (c) 2001-2023 Python Software Foundation; All Rights Reserved, under the Python
Software Foundation License Version 2 (SPDX: PSF-2.0), which stands in `LICENSE-PSF.txt` beside this card. Some
of its files were contributed to the foundation by authors who keep their own copyright.
Summary of the changes made: the text was normalised, split into documents and used to fit the weights and
the tokenizer. The Python Software Foundation has no part in this model and does not endorse it.

`held_out.txt` beside this card is a part of the text that was kept out of training, its whitespace normalised and
long documents cut, under the same licence: `anychip bench quality` measures on it.

## Training

`tools/train_demo/train.py` in the anychip repository, seeds {seeds}: {steps} steps of 4096 tokens
({tokens_m:.1f} million tokens) in {minutes} minutes with {threads} CPU threads, other work on the machine
included. Muon for the layers' matrices, AdamW for the rest, cosine schedule, bfloat16 autocast.

## Measured on held-out text

One file or topic in 25, chosen by a hash of its name, was kept out of training; passages that
stand in other files of the library too were not hunted down. Measured on the shipped bfloat16
weights, in windows of {context} tokens that start afresh:

| Held-out text | Tokens | Perplexity per token | Bits per byte |
|---|---|---|---|
{scores}

## Samples

As produced, not chosen: the first continuation of each prompt, {new_tokens} new tokens at most. "Sampled"
uses the settings of `generation_config.json` with seed 0.

{samples}
"""


def score(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> tuple[int, float, float]:
    """Return the number of tokens of `texts`, the perplexity per token and the bits per byte."""
    context = model.config.max_position_embeddings
    nats, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor(tokenizer(text, verbose=False).input_ids)  # [N + 1], <|endoftext|> first
        for start in range(0, len(ids) - 1, context):
            window = ids[start : start + context + 1]
            with torch.no_grad():
                logits = model(input_ids=window[None, :-1]).logits[0].float()  # [T, vocab]
            nats += functional.cross_entropy(logits, window[1:], reduction="sum").item()
            tokens += len(window) - 1
    size = sum(len(text.encode()) for text in texts)
    return tokens, math.exp(nats / tokens), nats / math.log(2) / size


def score_table(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, held_out: list[Unit]) -> str:
    """Return the rows of the card's table: sources, docstrings, and the two together."""
    sources = [unit.source for unit in held_out if unit.source]
    prose = ["\n\n".join(entry.text for entry in unit.entries) for unit in held_out if unit.entries]
    rows = []
    for label, texts in (("Source files", sources), ("Docstrings and topics", prose), ("All", sources + prose)):
        tokens, perplexity, bits = score(model, tokenizer, texts)
        rows.append(f"| {label} | {tokens:,} | {perplexity:.2f} | {bits:.3f} |")
    return "\n".join(rows)


def continuation(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, ids: list[int], sample: bool) -> str:
    """Return the text generated after `ids`; greedy means no sampling and no repetition penalty."""
    torch.manual_seed(0)
    settings = GenerationConfig(**model.generation_config.to_dict())
    settings.max_new_tokens = NEW_TOKENS
    if not sample:  # each setting stated: what is left unset is taken from generation_config.json
        settings.update(do_sample=False, temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.0)
    tokens = torch.tensor([ids])
    out = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=settings)[0]
    return tokenizer.decode(out[len(ids) :], skip_special_tokens=True)


def samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the card's samples in Markdown."""
    parts = []
    for prompt in PROMPTS:
        for label, sample in (("greedy", False), ("sampled", True)):
            text = continuation(model, tokenizer, tokenizer(prompt).input_ids, sample)
            parts.append(f"`{prompt.strip()}`, {label}:\n\n~~~text\n{prompt}{text}\n~~~")
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        text = continuation(model, tokenizer, ids, sample=True)
        parts.append(f"Chat, `{question}`, sampled:\n\n~~~text\n{text}\n~~~")
    return "\n\n".join(parts)


def write_licence(out: Path) -> None:
    """Copy version 2 of the PSF licence out of the interpreter's LICENSE.txt."""
    text = (Path(sysconfig.get_path("stdlib")) / "LICENSE.txt").read_text(encoding="utf-8")
    start = text.index("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2\n---")
    end = text.index("BEOPEN.COM LICENSE AGREEMENT FOR PYTHON 2.0")
    (out / "LICENSE-PSF.txt").write_text(text[start:end].strip() + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    config = model.config
    weights = args.model / "model.safetensors"
    with safe_open(weights, framework="pt") as file:
        record = file.metadata()
    card = CARD.format(
        parameters=model.num_parameters(),
        python=platform.python_version(),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        ffn=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab=config.vocab_size,
        context=config.max_position_embeddings,
        weight_mb=weights.stat().st_size / 1e6,
        tokens_m=int(record["steps"]) * 4096 / 1e6,
        new_tokens=NEW_TOKENS,
        scores=score_table(model, tokenizer, [unit for unit in units() if unit.held_out]),
        samples=samples(model, tokenizer),
        **{key: record[key] for key in ("seeds", "steps", "minutes", "threads")},
    )
    (args.model / "README.md").write_text(card, encoding="utf-8")
    write_licence(args.model)


if __name__ == "__main__":
    main()
