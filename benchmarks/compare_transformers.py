"""anychip beside Hugging Face Transformers, in turn, on the same prompts and the same random weights.

    python benchmarks/compare_transformers.py [--pairs N] [--threads N] [--workloads single batch prefix] [--kit]

The checkpoint has SmolLM2-135M's architecture. Transformers runs what a user would write: static batches of eight,
padded on the left, each to its longest output. Each engine runs in a process of its own; a pair is one run of each,
and the table gives the median of the pairs' ratios. With `--kit` the cpu platform leaves its own kernels out, so that
the torch kit does the work alone. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anychip.bench import workloads


def make_checkpoint(directory: Path) -> None:
    """Random weights in SmolLM2-135M's shape, float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=8192,
        rope_theta=100000.0,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(directory)


def run_transformers(model: str, name: str, threads: int) -> float:
    """Output tokens per second."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    net.generation_config.eos_token_id = None
    net.generation_config.pad_token_id = 0
    work = workloads.make(name)
    start = time.perf_counter()
    with torch.inference_mode():
        for i in range(0, len(work), 8):
            batch = work[i : i + 8]
            longest, count = max(len(p) for p, _ in batch), max(n for _, n in batch)
            ids = torch.tensor([[0] * (longest - len(p)) + p for p, _ in batch])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p, _ in batch])
            net.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
            )
    return sum(n for _, n in work) / (time.perf_counter() - start)


def run_anychip(model: str, name: str, threads: int) -> float:
    """Output tokens per second, from an empty prefix cache."""
    from anychip.bench import model as bench

    (result,) = bench.run(model, [name], repeats=1, progress=False, device="cpu", threads=threads, dtype="float32")
    return result.tokens_per_second


ENGINES = {"transformers": run_transformers, "anychip": run_anychip}


def measure(engine: str, model: str, name: str, threads: int, kit: bool) -> float:
    """In a process of its own, so that neither engine's threads or memory touch the other's run."""
    environment = os.environ | ({"ANYCHIP_CPU_ISA": "none"} if kit else {})
    command = [sys.executable, __file__, "--one", engine, model, name, "--threads", str(threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return float(json.loads(out.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workloads", nargs="+", default=list(workloads.NAMES), choices=workloads.NAMES)
    parser.add_argument("--kit", action="store_true", help="the torch kit alone, without the kernels of anychip-cpu")
    parser.add_argument("--one", nargs=3, metavar=("ENGINE", "MODEL", "WORKLOAD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        engine, model, name = options.one
        print(json.dumps(ENGINES[engine](model, name, options.threads)))
        return
    with tempfile.TemporaryDirectory() as directory:
        make_checkpoint(Path(directory))
        ours = "torch kit" if options.kit else "anychip"
        print(f"| workload | Transformers tokens/s | {ours} tokens/s | ratio (median of pairs) |")
        print("| --- | --- | --- | --- |")
        for name in options.workloads:
            pairs = [
                [measure(e, directory, name, options.threads, options.kit) for e in ENGINES]
                for _ in range(options.pairs)
            ]
            theirs, mine = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"| {name} | {theirs:.1f} | {mine:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
