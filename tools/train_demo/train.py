"""Train the demo model on Python's standard library and write a Hugging Face checkpoint.

    python train.py --out DIR [--start DIR] [--steps N] [--peak-lr F] [--long-share F] [--threads N] [--seed N]

Matrices inside the layers are trained with Muon (Jordan et al. 2024), the rest with AdamW, on a cosine
schedule. The last part of a run, `--long-share` of its steps, uses sequences as long as the model's context.
`--start` goes on from the weights and the tokenizer of an earlier run, with fresh optimizer state.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from corpus import Unit, epoch, units
from model import Llama, ModelConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizer import save_tokenizer, train_tokenizer
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

BATCH_TOKENS = 4096
SHORT, LONG = 256, 1024  # sequence lengths; the long one is the model's context
WARMUP_STEPS = 100  # at most; a tenth of a short run


def token_stream(training: list[Unit], tokenizer: Tokenizer, seed: int) -> Iterator[Tensor]:
    """Yield the tokens of one epoch after another, int64 [N]; <|endoftext|> stands before each document."""
    for number in range(1_000_000):
        documents = epoch(training, random.Random(seed + number))
        ids: list[int] = []
        for encoding in tokenizer.encode_batch(documents):
            ids.extend(encoding.ids)
        yield torch.tensor(ids)


def batches(stream: Iterator[Tensor], steps: int, long_share: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `steps` pairs of inputs and targets, each [B, T] with B * T = BATCH_TOKENS."""
    tokens = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        while len(tokens) <= BATCH_TOKENS:
            tokens = torch.cat((tokens, next(stream)))
        length = SHORT if step < steps * (1 - long_share) else LONG
        window, tokens = tokens[: BATCH_TOKENS + 1], tokens[BATCH_TOKENS:]
        yield window[:-1].view(-1, length), window[1:].view(-1, length)


def optimizers(model: Llama, peak_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices; AdamW, without weight decay, for the embedding and the norms."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    others = [model.embed_tokens.weight, *(p for p in model.parameters() if p.ndim == 1)]
    muon = torch.optim.Muon(matrices, lr=peak_lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=peak_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [muon, adamw]


def learning_rate(step: int, steps: int, peak_lr: float) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = min(1.0, (step + 1) / min(WARMUP_STEPS, max(1, steps // 10)))
    return peak_lr * warmup * 0.5 * (1 + math.cos(math.pi * step / steps))


def train(model: Llama, stream: Iterator[Tensor], steps: int, peak_lr: float, long_share: float) -> None:
    """Train in place, with the forward pass in bfloat16 and master weights in float32."""
    optims = optimizers(model, peak_lr)

    @torch.compile(dynamic=False)
    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs)  # [B, T, vocab]
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    started, running = time.monotonic(), 0.0
    for step, (inputs, targets) in enumerate(batches(stream, steps, long_share)):
        loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optims:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak_lr)
            optimizer.step()
            optimizer.zero_grad()
        running += loss.item()
        if (step + 1) % 50 == 0:
            speed = (step + 1) * BATCH_TOKENS / (time.monotonic() - started)
            print(f"step {step + 1}/{steps} loss {running / 50:.3f} {speed:.0f} tokens/s", flush=True)
            running = 0.0


def save_model(model: Llama, config: ModelConfig, out: Path, record: dict[str, str]) -> None:
    """Write model.safetensors in bfloat16, with `record` in its header, and the two config files."""
    weights = {f"model.{name}": p.detach().to(torch.bfloat16) for name, p in model.state_dict().items()}
    path = out / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt", **record})
    path.chmod(0o644)  # save_file leaves it readable by its owner alone
    shared = {"bos_token_id": 0, "eos_token_id": [0, 2], "pad_token_id": 0}
    architecture = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "use_cache": True,
    }
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
    for name, values in (
        ("config.json", {**architecture, **asdict(config), **shared}),
        ("generation_config.json", {**shared, **sampling}),
    ):
        (out / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load_start(model: Llama, start: Path) -> tuple[Tokenizer, dict[str, str]]:
    """Load an earlier run's weights into `model`; return its tokenizer and the record of its training."""
    path = start / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        record = file.metadata()
    model.load_state_dict({name.removeprefix("model."): w.float() for name, w in load_file(path).items()})
    return Tokenizer.from_file(str(start / "tokenizer.json")), record


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--peak-lr", type=float, default=4e-3)
    parser.add_argument("--long-share", type=float, default=0.12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    started = time.monotonic()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)

    config = ModelConfig(max_position_embeddings=LONG)
    training = [unit for unit in units() if not unit.held_out]
    model = Llama(config)
    earlier: dict[str, str] = {}
    if args.start:
        tokenizer, earlier = load_start(model, args.start)
    else:
        tokenizer = train_tokenizer(epoch(training, random.Random(args.seed)), config.vocab_size)
    save_tokenizer(tokenizer, args.out, LONG)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, token_stream(training, tokenizer, args.seed), args.steps, args.peak_lr, args.long_share)
    minutes = (time.monotonic() - started) / 60
    record = {
        "seeds": f"{earlier['seeds']} and {args.seed}" if earlier else str(args.seed),
        "threads": str(args.threads),
        "steps": str(args.steps + int(earlier.get("steps", 0))),
        "minutes": f"{minutes + float(earlier.get('minutes', 0)):.1f}",
    }
    save_model(model, config, args.out, record)
    print(f"done in {minutes:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
